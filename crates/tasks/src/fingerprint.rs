//! Comparison of two submissions with the same id.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::fmt::{self, Write};

/// Deeper nested values are compared as text.
const MAX_DEPTH: usize = 128;

/// Returns a digest of the queue, the type and the arguments of a task. The order of map keys does not matter, because
/// the order of a hash map differs each time.
pub(super) fn fingerprint(queue: &str, task: &str, arguments: &RawValue) -> String {
    let mut hash = Sha256::new();
    for name in [queue, task] {
        add(&mut hash, b's', name);
    }
    add_json(&mut hash, arguments.get(), MAX_DEPTH);
    hexadecimal(hash)
}

/// Returns a digest of texts.
pub(super) fn digest(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        add(&mut hash, b's', text);
    }
    hexadecimal(hash)
}

fn hexadecimal(hash: Sha256) -> String {
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Adds a text with its length, so that the boundary to the next text is unambiguous.
fn add(hash: &mut Sha256, kind: u8, text: &str) {
    begin(hash, kind, text.len());
    hash.update(text);
}

fn begin(hash: &mut Sha256, kind: u8, length: usize) {
    hash.update([kind]);
    hash.update((length as u64).to_be_bytes());
}

/// Adds a JSON value. Numbers stay text, so that numbers beyond the range of the numeric types remain distinct.
fn add_json(hash: &mut Sha256, json: &str, depth: usize) {
    let json = json.trim();
    match json.as_bytes().first() {
        Some(b'{') if depth > 0 => {
            if let Ok(Members(mut members)) = serde_json::from_str(json) {
                // A stable sort keeps the order of duplicate names.
                members.sort_by(|a, b| a.0.cmp(&b.0));
                begin(hash, b'{', members.len());
                for (name, value) in members {
                    add(hash, b's', &name);
                    add_json(hash, value.get(), depth - 1);
                }
                return;
            }
        }
        Some(b'[') if depth > 0 => {
            if let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(json) {
                begin(hash, b'[', elements.len());
                for element in elements {
                    add_json(hash, element.get(), depth - 1);
                }
                return;
            }
        }
        _ => {}
    }
    add(hash, b'v', json);
}

/// The members of an object.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
