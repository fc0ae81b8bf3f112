use crate::promise::{PassTiming, Passes, PromiseOutcome, PromiseTiming};
use http::HeaderValue;
use std::cmp::Reverse;
use std::fmt::Write;
use std::time::Duration;

/// How many characters of a name are shown.
const MAX_CHARACTERS: usize = 64;

/// The value of the header (W3C Server Timing, section 3.1), if it has one.
pub(super) fn value(passes: &Passes, max_entries: usize) -> Option<HeaderValue> {
    let mut entries = String::new();
    for (index, pass) in slowest(passes.passes(), max_entries, PassTiming::duration) {
        let name = format!("pass-{}", index + 1);
        push(&mut entries, &name, None, pass.duration());
    }
    for (_, promise) in slowest(passes.promises(), max_entries, PromiseTiming::duration) {
        let name = promise.key().as_str();
        let description = description(name, promise.outcome());
        push(
            &mut entries,
            &token(name),
            Some(&description),
            promise.duration(),
        );
    }
    // Nothing but printable ASCII has been put into it.
    let value = HeaderValue::try_from(entries).ok();
    value.filter(|value| !value.is_empty())
}

/// So many of the timings and their indices, in the order in which they are.
fn slowest<T>(timings: &[T], count: usize, duration: impl Fn(&T) -> Duration) -> Vec<(usize, &T)> {
    let mut slowest: Vec<_> = timings.iter().enumerate().collect();
    if slowest.len() > count {
        slowest.sort_by_key(|(_, timing)| Reverse(duration(timing)));
        slowest.truncate(count);
        slowest.sort_unstable_by_key(|(index, _)| *index);
    }
    slowest
}

fn push(entries: &mut String, name: &str, description: Option<&str>, duration: Duration) {
    if !entries.is_empty() {
        entries.push_str(", ");
    }
    entries.push_str(name);
    if let Some(description) = description {
        entries.push_str(";desc=\"");
        for character in description.chars() {
            if let '"' | '\\' = character {
                entries.push('\\');
            }
            entries.push(character);
        }
        entries.push('"');
    }
    let milliseconds = duration.as_secs_f64() * 1000.0;
    // Writing to a string cannot fail.
    let _ = write!(entries, ";dur={milliseconds:.3}");
}

/// A name of which nothing is left but the characters of a token.
fn token(name: &str) -> String {
    let token: String = name
        .chars()
        .take(MAX_CHARACTERS)
        .map(|character| if is_token(character) { character } else { '_' })
        .collect();
    match token.is_empty() {
        true => "_".to_owned(),
        false => token,
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

fn description(name: &str, outcome: PromiseOutcome) -> String {
    let mut description: String = name
        .chars()
        .take(MAX_CHARACTERS)
        .map(|character| match character {
            ' '..='~' => character,
            _ => '?',
        })
        .collect();
    if outcome != PromiseOutcome::Fulfilled {
        // Writing to a string cannot fail.
        let _ = write!(description, " ({outcome})");
    }
    description
}
