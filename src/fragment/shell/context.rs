use super::{END, START};
use crate::promise::registry::FragmentNumber;

/// Elements that contain only text, in which no other element can be.
const TEXT_ONLY: [&str; 9] = [
    "iframe", "noembed", "noframes", "noscript", "script", "style", "textarea", "title", "xmp",
];

/// No tag name of [`TEXT_ONLY`] is longer.
const MAX_NAME: usize = 16;

/// No number of a fragment has more digits.
const MAX_DIGITS: usize = 10;

/// The place in an HTML document, as far as it decides whether an element can begin.
#[derive(Clone, Copy, Default)]
pub(super) enum Context {
    #[default]
    Text,
    Tag {
        /// The name of the element, if it contains only text.
        text_only: Option<&'static str>,
        /// The last byte that is no white space. A quote begins a value only after `=`.
        last: u8,
    },
    /// In the value of an attribute.
    Value {
        quote: u8,
        text_only: Option<&'static str>,
    },
    Comment,
    /// In a declaration or a processing instruction, which ends with `>`.
    Declaration,
    /// In an element that contains only text.
    TextOnly(&'static str),
}

/// The first part of some bytes.
pub(super) enum Step {
    /// Bytes without a marker.
    Bytes(usize),
    /// The marker before a fragment.
    Start {
        number: FragmentNumber,
        count: usize,
    },
    /// The marker after a fragment.
    End { count: usize },
    /// The meaning depends on the bytes that follow.
    Incomplete,
}

impl Context {
    /// Whether an element can begin here.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Text)
    }

    /// Reads the first part of `data`. `is_last` if no bytes follow.
    pub(super) fn step(&mut self, data: &[u8], is_last: bool) -> Step {
        let mut bytes = data.iter();
        let run = match *self {
            Self::Text | Self::TextOnly(_) => bytes.position(|&byte| byte == b'<'),
            Self::Tag { .. } => bytes.position(|byte| matches!(byte, b'<' | b'>' | b'"' | b'\'')),
            Self::Value { quote, .. } => bytes.position(|&byte| byte == b'<' || byte == quote),
            Self::Comment => bytes.position(|byte| matches!(byte, b'<' | b'-')),
            Self::Declaration => bytes.position(|byte| matches!(byte, b'<' | b'>')),
        };
        match run {
            Some(0) => {}
            run => {
                let count = run.unwrap_or(data.len());
                if let Self::Tag { last, .. } = self {
                    let run = data[..count].trim_ascii_end();
                    *last = run.last().copied().unwrap_or(*last);
                }
                return Step::Bytes(count);
            }
        }
        if data[0] == b'<' {
            match marker(data) {
                None => {}
                Some(Step::Incomplete) if is_last => return Step::Bytes(1),
                Some(step) => return step,
            }
        }
        let advanced = match *self {
            Self::Text => self.enter(data),
            Self::Tag { text_only, last } => Some(match data[0] {
                // An empty element, as SVG has it.
                b'>' if last == b'/' => self.become_after(Self::Text, 1),
                b'>' => self.become_after(text_only.map_or(Self::Text, Self::TextOnly), 1),
                b'"' | b'\'' if last == b'=' => {
                    let quote = data[0];
                    self.become_after(Self::Value { quote, text_only }, 1)
                }
                last => self.become_after(Self::Tag { text_only, last }, 1),
            }),
            Self::Value { quote, text_only } => Some(match data[0] == quote {
                true => self.become_after(Self::tag(text_only), 1),
                false => 1,
            }),
            Self::Comment => self.leave_comment(data),
            Self::Declaration => Some(match data[0] {
                b'>' => self.become_after(Self::Text, 1),
                _ => 1,
            }),
            Self::TextOnly(name) => self.leave_element(data, name),
        };
        match advanced {
            Some(count) => Step::Bytes(count),
            None if is_last => Step::Bytes(1),
            None => Step::Incomplete,
        }
    }

    /// Reads a `<` in text. `None` if the meaning depends on the bytes that follow.
    fn enter(&mut self, data: &[u8]) -> Option<usize> {
        Some(match data.get(1)? {
            b'!' if begins(data, b"<!-->")? => self.become_after(Self::Text, 5),
            b'!' if begins(data, b"<!--->")? => self.become_after(Self::Text, 6),
            b'!' => match begins(data, b"<!--")? {
                true => self.become_after(Self::Comment, 4),
                false => self.become_after(Self::Declaration, 2),
            },
            b'?' => self.become_after(Self::Declaration, 2),
            b'/' => match data.get(2)?.is_ascii_alphabetic() {
                true => self.become_after(Self::tag(None), 2),
                false => self.become_after(Self::Declaration, 2),
            },
            byte if byte.is_ascii_alphabetic() => {
                let name = &data[1..];
                let ends = |byte: &u8| matches!(byte, b'>' | b'/') || byte.is_ascii_whitespace();
                let length = match name.iter().take(MAX_NAME).position(ends) {
                    Some(length) => length,
                    None if name.len() < MAX_NAME => return None,
                    None => MAX_NAME,
                };
                let name = &name[..length];
                let is_it = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
                let text_only = TEXT_ONLY.into_iter().find(is_it);
                self.become_after(Self::tag(text_only), 1 + length)
            }
            _ => 1,
        })
    }

    /// Reads a `-` in a comment.
    fn leave_comment(&mut self, data: &[u8]) -> Option<usize> {
        for end in [&b"-->"[..], b"--!>"] {
            if begins(data, end)? {
                return Some(self.become_after(Self::Text, end.len()));
            }
        }
        Some(1)
    }

    /// Reads a `<` in an element that contains only text.
    fn leave_element(&mut self, data: &[u8], name: &str) -> Option<usize> {
        let end = 2 + name.len();
        if !begins(data, b"</")? || !begins(&data[2..], name.as_bytes())? {
            return Some(1);
        }
        let ends = matches!(data.get(end)?, b'>' | b'/') || data[end].is_ascii_whitespace();
        Some(match ends {
            true => self.become_after(Self::tag(None), end),
            false => 1,
        })
    }

    /// The context after the name of an element.
    fn tag(text_only: Option<&'static str>) -> Self {
        Self::Tag { text_only, last: 0 }
    }

    /// Changes the context after some bytes, and returns their number.
    fn become_after(&mut self, context: Self, count: usize) -> usize {
        *self = context;
        count
    }
}

/// Reads a marker. `None` if there is none.
fn marker(data: &[u8]) -> Option<Step> {
    match begins(data, END.as_bytes()) {
        Some(true) => return Some(Step::End { count: END.len() }),
        None => return Some(Step::Incomplete),
        Some(false) => {}
    }
    match begins(data, START.as_bytes()) {
        Some(true) => {}
        None => return Some(Step::Incomplete),
        Some(false) => return None,
    }
    let rest = &data[START.len()..];
    let digits = rest.iter().take(MAX_DIGITS);
    let digits = digits.take_while(|byte| byte.is_ascii_digit()).count();
    if !begins(&rest[digits..], b"\">").unwrap_or(true) {
        return None;
    }
    if rest.len() < digits + 2 {
        return Some(Step::Incomplete);
    }
    let number = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    let count = START.len() + digits + 2;
    Some(Step::Start { number, count })
}

/// Whether `data` begins with `prefix`, in any case. `None` if more bytes are needed.
pub(super) fn begins(data: &[u8], prefix: &[u8]) -> Option<bool> {
    let length = data.len().min(prefix.len());
    let is_equal = data[..length].eq_ignore_ascii_case(&prefix[..length]);
    match is_equal && length < prefix.len() {
        true => None,
        false => Some(is_equal),
    }
}
