//! The part of a page that is sent before its pending fragments.

mod context;

use crate::promise::Key;
use crate::promise::registry::FragmentNumber;
use bytes::{Bytes, BytesMut};
use context::{Context, Step};
use std::mem;
use std::ops::Range;

/// The prefix of the id of a fragment, which its number follows.
pub(super) const PREFIX: &str = "tp";

/// The beginning of the marker before a pending fragment, which the number and `">` follow.
pub(super) const START: &str = "<?start name=\"tp";

/// The marker after a pending fragment.
pub(super) const END: &str = "<?end>";

/// The largest number of bytes at the end of a page that are held back as closing tags with white space.
const MAX_CLOSING_TAGS: usize = 1024;

/// Passes on the bytes of a page, except that it
/// - replaces pending fragments that have been rendered meanwhile,
/// - holds back the closing tags at the end of the page, so that the fragments can precede them,
/// - finds out where the pending fragments are.
pub(super) struct Shell {
    fragments: Vec<Placed>,
    context: Context,
    /// Bytes whose meaning depends on the bytes that follow.
    held: Bytes,
    /// The number of unclosed fragments within a fragment that is being replaced, including that fragment.
    skipped: usize,
    inserted_bytes: usize,
}

/// A pending fragment of the page.
pub(super) struct Placed {
    number: FragmentNumber,
    name: Key,
    place: Place,
    /// `None` if the fragment is still pending.
    html: Option<String>,
}

impl Placed {
    fn new(number: FragmentNumber, name: Key) -> Self {
        Self {
            number,
            name,
            place: Place::Unknown,
            html: None,
        }
    }
}

/// Where the markers of a fragment are.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Unknown,
    /// Where HTML can contain elements.
    Text,
    /// Where HTML can contain elements, more than once.
    Texts,
    /// In a tag, a comment or an element that contains only text.
    Elsewhere,
}

/// Why a fragment cannot replace its fallback.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// The markers are not in the page.
    Missing,
    /// The markers are in a tag, a comment or an element that contains only text.
    Misplaced,
    /// The markers are in the page more than once.
    Repeated,
}

impl Shell {
    pub(super) fn new(pending: Vec<(FragmentNumber, Key)>) -> Self {
        let pending = pending.into_iter();
        let fragments = pending.map(|(number, name)| Placed::new(number, name));
        Self {
            fragments: fragments.collect(),
            context: Context::default(),
            held: Bytes::new(),
            skipped: 0,
            inserted_bytes: 0,
        }
    }

    /// Replaces a pending fragment by its HTML, before the page begins.
    pub(super) fn insert(&mut self, number: FragmentNumber, name: Key, html: String) {
        self.inserted_bytes += html.len();
        self.expect(number, name).html = Some(html);
    }

    /// Adds a pending fragment, unless it is known. It is inside of another one that was rendered before the page begins.
    pub(super) fn expect(&mut self, number: FragmentNumber, name: Key) -> &mut Placed {
        let known = self.fragments.iter().position(|it| it.number == number);
        let position = known.unwrap_or_else(|| {
            self.fragments.push(Placed::new(number, name));
            self.fragments.len() - 1
        });
        &mut self.fragments[position]
    }

    pub(super) fn inserted_bytes(&self) -> usize {
        self.inserted_bytes
    }

    /// Adds bytes of the page. Returns the bytes that can be sent.
    pub(super) fn push(&mut self, data: Bytes) -> Bytes {
        let data = match self.held.is_empty() {
            true => data,
            false => [&*self.held, &*data].concat().into(),
        };
        let passed = data.len() - closing_tags(&data, false);
        self.pass(&data, passed, false)
    }

    /// Ends the page. Returns the bytes that can be sent, without the closing tags.
    pub(super) fn end(&mut self) -> Bytes {
        let data = mem::take(&mut self.held);
        let passed = data.len() - closing_tags(&data, true);
        self.pass(&data, passed, true)
    }

    /// Takes the fragments that have been rendered and were not inserted although the page contains their markers.
    pub(super) fn take_misplaced(&mut self) -> Vec<(FragmentNumber, String)> {
        let fragments = self.fragments.iter_mut();
        let misplaced = fragments.filter(|it| it.place == Place::Elsewhere);
        misplaced
            .filter_map(|it| Some((it.number, it.html.take()?)))
            .collect()
    }

    /// The closing tags at the end of the page.
    pub(super) fn closing_tags(&mut self) -> Bytes {
        mem::take(&mut self.held)
    }

    /// The fragments that cannot replace their fallbacks.
    pub(super) fn faults(&self) -> impl Iterator<Item = (FragmentNumber, &Key, Fault)> {
        self.fragments.iter().filter_map(|fragment| {
            let fault = match fragment.place {
                Place::Text => return None,
                Place::Texts => Fault::Repeated,
                Place::Unknown => Fault::Missing,
                Place::Elsewhere => Fault::Misplaced,
            };
            Some((fragment.number, &fragment.name, fault))
        })
    }

    /// Passes on the bytes before `end`, and holds the others back.
    fn pass(&mut self, data: &Bytes, end: usize, is_last: bool) -> Bytes {
        let mut output = Output::default();
        let mut at = 0;
        while at < end {
            match self.context.step(&data[at..end], is_last) {
                Step::Incomplete => break,
                Step::Bytes(count) => {
                    if self.skipped == 0 {
                        output.push(data, at..at + count);
                    }
                    at += count;
                }
                Step::Start { number, count } => {
                    if self.skipped > 0 {
                        self.skipped += 1;
                    } else if let Some(html) = self.place(number) {
                        self.skipped = 1;
                        output.insert(data, &html);
                    } else {
                        output.push(data, at..at + count);
                    }
                    at += count;
                }
                Step::End { count } => {
                    match self.skipped {
                        0 => output.push(data, at..at + count),
                        _ => self.skipped -= 1,
                    }
                    at += count;
                }
            }
        }
        self.held = data.slice(at..);
        output.finish(data)
    }

    /// Notes where a fragment is. Returns its HTML if it has been rendered.
    fn place(&mut self, number: FragmentNumber) -> Option<Bytes> {
        let is_text = self.context.is_text();
        let fragment = self.fragments.iter_mut().find(|it| it.number == number)?;
        fragment.place = match (fragment.place, is_text) {
            (Place::Text | Place::Texts, true) => Place::Texts,
            (Place::Unknown | Place::Elsewhere, true) => Place::Text,
            (Place::Unknown, false) => Place::Elsewhere,
            (place, false) => place,
        };
        if !is_text {
            return None;
        }
        let html = fragment.html.take()?;
        Some(self.expand(&html.into()))
    }

    /// Replaces the fragments within the HTML of a fragment.
    fn expand(&mut self, html: &Bytes) -> Bytes {
        let context = mem::take(&mut self.context);
        let expanded = self.pass(html, html.len(), true);
        self.context = context;
        self.skipped = 0;
        expanded
    }
}

/// The length of the closing tags at the end of `data`, with the white space between and after them. Includes what may be
/// the beginning of a closing tag, unless `data` is the last.
fn closing_tags(data: &[u8], is_last: bool) -> usize {
    let mut length = 0;
    let mut before = data;
    for _ in 0..2 {
        let Some(at) = before.iter().rposition(|byte| *byte == b'<') else {
            break;
        };
        let tags = &data[at..];
        if tags.len() <= MAX_CLOSING_TAGS && are_closing_tags(tags, is_last) {
            length = data.len() - at;
        }
        before = &data[..at];
    }
    length
}

fn are_closing_tags(data: &[u8], is_last: bool) -> bool {
    let mut rest = data;
    for tag in ["</body>", "</html>"] {
        if rest.is_empty() {
            return true;
        }
        match context::begins(rest, tag.as_bytes()) {
            Some(true) => rest = rest[tag.len()..].trim_ascii_start(),
            Some(false) => {}
            None => return !is_last,
        }
    }
    rest.is_empty()
}

/// The bytes to send.
enum Output {
    /// A part of the input, as long as nothing was left out or inserted.
    Slice(Range<usize>),
    Copied(BytesMut),
}

impl Default for Output {
    fn default() -> Self {
        Self::Slice(0..0)
    }
}

impl Output {
    fn push(&mut self, data: &Bytes, range: Range<usize>) {
        match self {
            Self::Slice(slice) if slice.start == slice.end => *slice = range,
            Self::Slice(slice) if slice.end == range.start => slice.end = range.end,
            _ => self.copied(data).extend_from_slice(&data[range]),
        }
    }

    fn insert(&mut self, data: &Bytes, html: &[u8]) {
        self.copied(data).extend_from_slice(html);
    }

    fn copied(&mut self, data: &Bytes) -> &mut BytesMut {
        if let Self::Slice(slice) = self {
            *self = Self::Copied(BytesMut::from(&data[slice.clone()]));
        }
        match self {
            Self::Copied(copied) => copied,
            Self::Slice(_) => unreachable!("the slice was copied above"),
        }
    }

    fn finish(self, data: &Bytes) -> Bytes {
        match self {
            Self::Slice(slice) => data.slice(slice),
            Self::Copied(copied) => copied.freeze(),
        }
    }
}
