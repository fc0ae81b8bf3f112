use crate::promise::{Passes, PromiseOutcome, PromiseTiming};
use http::HeaderValue;
use std::cmp::Reverse;
use std::fmt::Write;
use std::time::Duration;

/// How many characters of a name are shown.
const MAX_CHARACTERS: usize = 64;

/// The value of the header (W3C Server Timing, section 3.1).
pub(super) fn value(passes: &Passes, max_entries: usize) -> HeaderValue {
    let mut entries = String::new();
    for (index, pass) in passes.passes().iter().enumerate() {
        let number = index + 1;
        push(
            &mut entries,
            &format!("pass-{number}"),
            None,
            pass.duration(),
        );
    }
    for promise in slowest(passes.promises(), max_entries) {
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
    HeaderValue::try_from(entries).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// So many of the promises, in the order in which they are.
fn slowest(promises: &[PromiseTiming], count: usize) -> Vec<&PromiseTiming> {
    let mut indices: Vec<_> = (0..promises.len()).collect();
    if promises.len() > count {
        indices.sort_by_key(|&index| Reverse(promises[index].duration()));
        indices.truncate(count);
        indices.sort_unstable();
    }
    indices.into_iter().map(|index| &promises[index]).collect()
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
