use crate::promise::{PassTiming, Passes, PromiseOutcome, PromiseTiming};
use http::HeaderValue;
use std::cmp::Reverse;
use std::fmt::Write;
use std::time::Duration;

/// The largest number of characters of a name that are shown.
const MAX_CHARACTERS: usize = 64;

/// Separates two entries.
const SEPARATOR: &str = ", ";

/// The limits of the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The number of entries for passes, and the number of entries for promises.
    pub(super) max_entries: usize,
    /// The size of the value of the header.
    pub(super) max_bytes: usize,
}

/// The value of the header (W3C Server Timing, section 3.1). `None` if there is no entry.
pub(super) fn value(passes: &Passes, limits: Limits) -> Option<HeaderValue> {
    let mut room = limits.max_bytes.saturating_add(SEPARATOR.len());
    // The passes come first, because their entries are short and the promises make no sense without them.
    let mut entries = slowest(
        passes.passes(),
        PassTiming::duration,
        limits.max_entries,
        &mut room,
        |index, pass| entry(&format!("pass-{}", index + 1), None, pass.duration()),
    );
    entries.extend(slowest(
        passes.promises(),
        PromiseTiming::duration,
        limits.max_entries,
        &mut room,
        |_, promise| {
            let name = promise.key().as_str();
            let description = description(name, promise.outcome());
            entry(&token(name), Some(&description), promise.duration())
        },
    ));
    // The value contains only printable ASCII.
    let value = HeaderValue::try_from(entries.join(SEPARATOR)).ok();
    value.filter(|value| !value.is_empty())
}

/// The entries of the slowest timings that are within the limits, in the order of the timings.
fn slowest<T>(
    timings: &[T],
    duration: impl Fn(&T) -> Duration,
    max_entries: usize,
    room: &mut usize,
    entry: impl Fn(usize, &T) -> String,
) -> Vec<String> {
    let mut slowest: Vec<_> = timings.iter().enumerate().collect();
    slowest.sort_by_key(|(_, timing)| Reverse(duration(timing)));
    slowest.truncate(max_entries);
    let mut entries = Vec::new();
    for (index, timing) in slowest {
        let entry = entry(index, timing);
        if let Some(rest) = room.checked_sub(entry.len() + SEPARATOR.len()) {
            *room = rest;
            entries.push((index, entry));
        }
    }
    entries.sort_unstable_by_key(|(index, _)| *index);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn entry(name: &str, description: Option<&str>, duration: Duration) -> String {
    let mut entry = name.to_owned();
    if let Some(description) = description {
        entry.push_str(";desc=\"");
        for character in description.chars() {
            if let '"' | '\\' = character {
                entry.push('\\');
            }
            entry.push(character);
        }
        entry.push('"');
    }
    let milliseconds = duration.as_secs_f64() * 1000.0;
    // Writing to a string cannot fail.
    let _ = write!(entry, ";dur={milliseconds:.3}");
    entry
}

/// The name with an underscore for each character that is not allowed in a token.
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

/// Whether a token may contain the character (RFC 9110, section 5.6.2).
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
