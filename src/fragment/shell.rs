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
struct Placed {
    number: FragmentNumber,
    name: Key,
    place: Place,
    /// `None` if the fragment is still pending.
    html: Option<String>,
}

/// Where the markers of a fragment are.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Unknown,
    /// Where HTML can contain elements.
    Text,
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
}

impl Shell {
    pub(super) fn new(pending: Vec<(FragmentNumber, Key)>) -> Self {
        let pending = pending.into_iter();
        let fragments = pending.map(|(number, name)| Placed {
            number,
            name,
            place: Place::Unknown,
            html: None,
        });
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
        match self.fragments.iter_mut().find(|it| it.number == number) {
            Some(fragment) => fragment.html = Some(html),
            // The fragment is inside of another one that became ready at the same time.
            None => self.fragments.push(Placed {
                number,
                name,
                place: Place::Unknown,
                html: Some(html),
            }),
        }
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
        let passed = data.len() - closing_tags(&data);
        self.pass(&data, passed, false)
    }

    /// Ends the page. Returns the bytes that can be sent, without the closing tags.
    pub(super) fn end(&mut self) -> Bytes {
        let data = mem::take(&mut self.held);
        let passed = data.len() - closing_tags(&data);
        self.pass(&data, passed, true)
    }

    /// The closing tags at the end of the page.
    pub(super) fn closing_tags(&mut self) -> Bytes {
        mem::take(&mut self.held)
    }

    /// The fragments that cannot replace their fallbacks.
    pub(super) fn faults(&self) -> impl Iterator<Item = (&Key, Fault)> {
        self.fragments.iter().filter_map(|fragment| {
            let fault = match fragment.place {
                Place::Text => return None,
                Place::Unknown => Fault::Missing,
                Place::Elsewhere => Fault::Misplaced,
            };
            Some((&fragment.name, fault))
        })
    }

    /// Passes on the bytes before `end`, and holds the others back.
    fn pass(&mut self, data: &Bytes, end: usize, is_last: bool) -> Bytes {
        let mut passed = Passed::default();
        let mut at = 0;
        while at < end {
            match self.context.step(&data[at..end], is_last) {
                Step::Incomplete => break,
                Step::Bytes(count) => {
                    if self.skipped == 0 {
                        passed.push(data, at..at + count);
                    }
                    at += count;
                }
                Step::Start { number, count } => {
                    if self.skipped > 0 {
                        self.skipped += 1;
                    } else if let Some(html) = self.place(number) {
                        self.skipped = 1;
                        passed.insert(data, &html);
                    } else {
                        passed.push(data, at..at + count);
                    }
                    at += count;
                }
                Step::End { count } => {
                    match self.skipped {
                        0 => passed.push(data, at..at + count),
                        _ => self.skipped -= 1,
                    }
                    at += count;
                }
            }
        }
        self.held = data.slice(at..);
        passed.finish(data)
    }

    /// Notes where a fragment is. Returns its HTML if it has been rendered.
    fn place(&mut self, number: FragmentNumber) -> Option<String> {
        let is_text = self.context.is_text();
        let fragment = self.fragments.iter_mut().find(|it| it.number == number)?;
        if !is_text {
            fragment.place = Place::Elsewhere;
            return None;
        }
        fragment.place = Place::Text;
        let html = fragment.html.take()?;
        Some(self.expand(&html))
    }

    /// Replaces the fragments within the HTML of a fragment.
    fn expand(&mut self, html: &str) -> String {
        let Some(begin) = html.find(START) else {
            return html.to_owned();
        };
        // Inner fragments are rare, so copying the HTML is good enough.
        let mut inner = Self {
            fragments: mem::take(&mut self.fragments),
            context: Context::default(),
            held: Bytes::new(),
            skipped: 0,
            inserted_bytes: 0,
        };
        let data = Bytes::copy_from_slice(&html.as_bytes()[begin..]);
        let expanded = inner.pass(&data, data.len(), true);
        self.fragments = inner.fragments;
        format!("{}{}", &html[..begin], String::from_utf8_lossy(&expanded))
    }
}

/// The length of the closing tags at the end of `data`, with the white space between them.
fn closing_tags(data: &[u8]) -> usize {
    let mut rest = data;
    let mut end = data.len();
    for tag in ["</html>", "</body>"] {
        let trimmed = rest.trim_ascii_end();
        let Some(at) = trimmed.len().checked_sub(tag.len()) else {
            break;
        };
        if trimmed[at..].eq_ignore_ascii_case(tag.as_bytes()) {
            end = at;
            rest = &rest[..at];
        }
    }
    data.len() - end
}

/// The bytes to send.
enum Passed {
    /// A part of the input, as long as nothing was left out or inserted.
    Slice(Range<usize>),
    Copied(BytesMut),
}

impl Default for Passed {
    fn default() -> Self {
        Self::Slice(0..0)
    }
}

impl Passed {
    fn push(&mut self, data: &Bytes, range: Range<usize>) {
        match self {
            Self::Slice(slice) if slice.start == slice.end => *slice = range,
            Self::Slice(slice) if slice.end == range.start => slice.end = range.end,
            _ => self.copied(data).extend_from_slice(&data[range]),
        }
    }

    fn insert(&mut self, data: &Bytes, html: &str) {
        self.copied(data).extend_from_slice(html.as_bytes());
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
