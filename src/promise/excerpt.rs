//! Names and messages in errors, logs and spans. They may contain input of a client, so a line break must not start a
//! new line in a log, and a name of a megabyte must not be repeated in every log line.

use super::Key;
use std::borrow::Cow;
use std::fmt::{self, Write};

/// The largest number of bytes of a name that are shown.
const MAX_BYTES: usize = 256;

/// The shown part of a name.
pub(crate) fn excerpt(key: &Key) -> Cow<'_, str> {
    match cut(key.as_str()) {
        (name, false) => Cow::Borrowed(name),
        (name, true) => Cow::Owned(format!("{name}…")),
    }
}

/// The first [`MAX_BYTES`] of a name, and whether more bytes follow.
fn cut(name: &str) -> (&str, bool) {
    if name.len() <= MAX_BYTES {
        return (name, false);
    }
    let end = (0..=MAX_BYTES)
        .rev()
        .find(|end| name.is_char_boundary(*end));
    (&name[..end.unwrap_or(0)], true)
}

/// A name in the text of an error: an excerpt on one line.
pub(crate) struct Name<'a>(pub(crate) &'a Key);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, has_more) = cut(self.0.as_str());
        OneLine(name).fmt(f)?;
        match has_more {
            true => f.write_char('…'),
            false => Ok(()),
        }
    }
}

/// Text with all characters escaped that end a line, change the direction of text or control a terminal.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match is_control_or_line_end(character) || changes_direction(character) {
                true => write!(f, "{}", character.escape_debug())?,
                false => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Whether it is a line separator or a control character (ESC starts a terminal sequence).
fn is_control_or_line_end(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Whether it changes the display order of the characters that follow.
fn changes_direction(character: char) -> bool {
    matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// The largest number of names of a list that are shown.
const MAX_NAMES: usize = 8;

/// A list of names in the log, with at most [`MAX_NAMES`] names.
pub(crate) struct Names<'a>(pub(crate) &'a [Key]);

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(MAX_NAMES)];
        f.write_char('[')?;
        for (index, key) in shown.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{:?}", excerpt(key))?;
        }
        let more = self.0.len() - shown.len();
        if more > 0 {
            write!(f, ", and {more} more")?;
        }
        f.write_char(']')
    }
}
