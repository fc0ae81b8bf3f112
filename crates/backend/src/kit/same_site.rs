//! Checks of forms: whether a page of this server has sent them.

use http::header::{HOST, HeaderName, ORIGIN};
use http::{HeaderMap, Uri};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What the headers of a request say about the page that has sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A page of this server, the user by hand, or a client that is not a browser.
    Own,
    /// A browser that does not say which page it shows.
    Unknown,
    /// A page of another site.
    Foreign,
}

/// Returns what the headers say. `origin` is the configured origin of the server, empty if there is none.
pub fn sender(headers: &HeaderMap, uri: &Uri, origin: &str) -> Sender {
    match headers.get(SEC_FETCH_SITE).map(|site| site.as_bytes()) {
        Some(b"same-origin" | b"none") => Sender::Own,
        Some(_) => Sender::Foreign,
        None => match headers.get(ORIGIN).map(|origin| origin.as_bytes()) {
            // Pages with the referrer policy `no-referrer` make browsers send the origin `null`.
            Some(b"null") => Sender::Unknown,
            Some(sent) if !is_own(sent, headers, uri, origin) => Sender::Foreign,
            _ => Sender::Own,
        },
    }
}

/// Whether an origin is the configured origin or the host of the request.
fn is_own(sent: &[u8], headers: &HeaderMap, uri: &Uri, configured: &str) -> bool {
    if !configured.is_empty() && sent.eq_ignore_ascii_case(configured.as_bytes()) {
        return true;
    }
    let host = headers.get(HOST).map(|host| host.as_bytes());
    let authority = uri.authority();
    let host = host.or_else(|| authority.map(|authority| authority.as_str().as_bytes()));
    let sent = sent
        .strip_prefix(b"https://")
        .or_else(|| sent.strip_prefix(b"http://"));
    host.is_some() && sent == host
}

/// Compares in constant time for equal lengths, so that the time does not reveal the position of a difference.
pub fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::{Sender, is_same, sender};
    use http::{HeaderMap, HeaderName, HeaderValue, Uri};

    #[test]
    fn the_headers_tell_the_site_of_the_page() {
        let host = ("host", "example.com");
        for (given, expected) in [
            (&[][..], Sender::Own),
            (&[("sec-fetch-site", "same-origin")], Sender::Own),
            (&[("sec-fetch-site", "none")], Sender::Own),
            (&[("sec-fetch-site", "same-site")], Sender::Foreign),
            (&[("sec-fetch-site", "cross-site")], Sender::Foreign),
            (&[("origin", "null")], Sender::Unknown),
            (&[("origin", "https://example.com"), host], Sender::Own),
            (&[("origin", "http://example.com"), host], Sender::Own),
            (&[("origin", "https://other.com"), host], Sender::Foreign),
            (&[("origin", "https://public.com"), host], Sender::Own),
            (&[("origin", "https://example.com")], Sender::Foreign),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                let name = HeaderName::from_static(name);
                headers.insert(name, HeaderValue::from_static(value));
            }
            let found = sender(&headers, &Uri::from_static("/"), "https://public.com");
            assert_eq!(found, expected, "{given:?}");
        }
    }

    #[test]
    fn texts_are_the_same_or_not() {
        assert!(is_same(b"", b"") && is_same(b"ab", b"ab"));
        assert!(!is_same(b"ab", b"ac") && !is_same(b"ab", b"abc") && !is_same(b"abc", b"ab"));
    }
}
