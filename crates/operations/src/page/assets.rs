/// A file that the pages need.
#[derive(Debug)]
pub(crate) struct Asset {
    /// The media type, with its charset.
    pub(crate) content_type: &'static str,
    /// The content.
    pub(crate) body: &'static str,
    /// The file name. It changes with the content, so browsers may cache the file forever.
    pub(crate) file_name: &'static str,
}

const STYLE_TEXT: &str = include_str!("page.css");
const ICON_TEXT: &str = include_str!("icon.svg");
const SCRIPT_TEXT: &str = include_str!("page.js");
const STYLE_NAME: [u8; 20] = file_name(STYLE_TEXT, b".css");
const ICON_NAME: [u8; 20] = file_name(ICON_TEXT, b".svg");
const SCRIPT_NAME: [u8; 19] = file_name(SCRIPT_TEXT, b".js");

pub(super) static STYLE: Asset = Asset {
    content_type: "text/css; charset=utf-8",
    body: STYLE_TEXT,
    file_name: text(&STYLE_NAME),
};

pub(super) static SCRIPT: Asset = Asset {
    content_type: "text/javascript; charset=utf-8",
    body: SCRIPT_TEXT,
    file_name: text(&SCRIPT_NAME),
};

/// Without an icon, browsers request `/favicon.ico` from the application.
pub(super) static ICON: Asset = Asset {
    content_type: "image/svg+xml",
    body: ICON_TEXT,
    file_name: text(&ICON_NAME),
};

/// Returns the file with this name.
pub(crate) fn asset(file_name: &str) -> Option<&'static Asset> {
    [&STYLE, &SCRIPT, &ICON]
        .into_iter()
        .find(|asset| asset.file_name == file_name)
}

/// Returns the hash of the content, in 16 hexadecimal digits, and the extension.
const fn file_name<const N: usize>(body: &str, extension: &[u8]) -> [u8; N] {
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

const fn text(name: &'static [u8]) -> &'static str {
    match std::str::from_utf8(name) {
        Ok(name) => name,
        Err(_) => panic!("the name of a file is ASCII"),
    }
}

#[cfg(test)]
mod tests {
    use super::{ICON, SCRIPT, STYLE, asset, hash};

    #[test]
    fn names_have_the_hash_of_the_contents() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
        for (file, extension) in [(&STYLE, "css"), (&SCRIPT, "js"), (&ICON, "svg")] {
            let name = format!("{:016x}.{extension}", hash(file.body.as_bytes()));
            assert_eq!(file.file_name, name);
            assert_eq!(asset(&name).map(|asset| asset.body), Some(file.body));
        }
        assert!(asset("0000000000000000.css").is_none());
    }
}
