//! The request header `Accept`, as far as it distinguishes browsers from other clients.

use super::prefer::split;
use http::HeaderMap;
use http::header::ACCEPT;

/// Whether the client accepts `text/html` by name, so that it can be redirected to a page.
pub(super) fn names_html(headers: &HeaderMap) -> bool {
    ranges(headers).any(|(range, quality)| range == "text/html" && quality > 0)
}

/// Whether the client prefers HTML to JSON. Clients without a preference get JSON.
pub(super) fn prefers_html(headers: &HeaderMap) -> bool {
    let (html, json) = (
        Wish::of(headers, "text", "html"),
        Wish::of(headers, "application", "json"),
    );
    html.quality > 0
        && (html.quality > json.quality
            || html.quality == json.quality && html.precision > json.precision)
}

/// The preference for a media type, from the most precise range that covers it.
#[derive(Default)]
struct Wish {
    /// 0 if no range covers the type, 3 for the type itself.
    precision: u8,
    /// In thousandths.
    quality: u16,
}

impl Wish {
    fn of(headers: &HeaderMap, group: &str, name: &str) -> Self {
        let mut wish = Self::default();
        for (range, quality) in ranges(headers) {
            let precision = match range.split_once('/') {
                Some(("*", "*")) => 1,
                Some((its_group, "*")) if its_group == group => 2,
                Some((its_group, its_name)) if its_group == group && its_name == name => 3,
                _ => continue,
            };
            if precision > wish.precision {
                wish = Self { precision, quality };
            }
        }
        wish
    }
}

/// Returns the media ranges in lower case, without parameters, with their quality in thousandths.
fn ranges(headers: &HeaderMap) -> impl Iterator<Item = (String, u16)> {
    let lines = headers.get_all(ACCEPT).iter();
    lines.flat_map(|line| {
        let line = String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase();
        let ranges: Vec<_> = split(&line, ',').map(range).collect();
        ranges
    })
}

fn range(text: &str) -> (String, u16) {
    let mut parts = split(text, ';').map(str::trim);
    let range = parts.next().unwrap_or_default().to_owned();
    let quality = parts.find_map(|parameter| parameter.strip_prefix("q="));
    (range, quality.map_or(1000, thousandths))
}

/// Parses a quality, a number from 0 to 1 with at most three decimals. A malformed quality counts as 1.
fn thousandths(quality: &str) -> u16 {
    match quality.trim().split_once('.') {
        Some(("0", decimals)) if decimals.bytes().all(|byte| byte.is_ascii_digit()) => {
            let decimals = decimals.bytes().chain([b'0'; 3]).take(3);
            decimals.fold(0, |number, digit| number * 10 + u16::from(digit - b'0'))
        }
        None if quality.trim() == "0" => 0,
        _ => 1000,
    }
}
