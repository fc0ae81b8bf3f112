//! Files that a page needs, under names that change with their contents.

/// A file that a page needs.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// The media type, with its charset.
    pub content_type: &'static str,
    /// The content.
    pub body: &'static str,
    /// The file name. It changes with the content, so browsers may cache the file forever.
    pub file_name: &'static str,
}

/// Returns the hash of the content, in 16 hexadecimal digits, and the extension.
pub const fn file_name<const N: usize>(body: &str, extension: &[u8]) -> [u8; N] {
    assert!(N == 16 + extension.len());
    let hash = hash(body.as_bytes());
    let mut name = [0; N];
    let mut at = 0;
    while at < N {
        name[at] = if at < 16 {
            b"0123456789abcdef"[(hash >> (60 - 4 * at) & 15) as usize]
        } else {
            extension[at - 16]
        };
        at += 1;
    }
    name
}

/// FNV-1a: the hash needs no protection against attacks, and the compiler can compute it.
const fn hash(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Returns a file name as text.
///
/// # Panics
///
/// Panics if the name is not UTF-8, at the time of compilation.
pub const fn text(name: &'static [u8]) -> &'static str {
    match std::str::from_utf8(name) {
        Ok(name) => name,
        Err(_) => panic!("the name of a file is ASCII"),
    }
}

#[cfg(test)]
mod tests {
    use super::{file_name, hash, text};

    const NAME: [u8; 19] = file_name("foobar", b".js");

    #[test]
    fn names_have_the_hash_of_the_contents() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(text(&NAME), "85944171f73967e8.js");
    }
}
