//! The request header `Prefer` (RFC 7240).

use http::HeaderMap;
use http::header::HeaderName;
use std::time::Duration;

pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The longest address of a callback.
const MAX_CALLBACK_BYTES: usize = 2048;

/// The preferences of a client that affect operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Preferences {
    pub(super) respond_async: bool,
    /// In whole seconds.
    pub(super) wait: Option<u64>,
}

impl Preferences {
    /// Parses all fields of the header. Malformed and unknown preferences are ignored.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut preferences = Self::default();
        let (mut seen_respond_async, mut seen_wait) = (false, false);
        for line in headers.get_all(PREFER) {
            // A value that is not ASCII can still hold preferences that are.
            let line = String::from_utf8_lossy(line.as_bytes());
            for preference in split(&line, ',') {
                let preference = split(preference, ';').next().unwrap_or_default();
                let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
                let (name, value) = (name.trim(), unquoted(value.trim()));
                // The first of repeated preferences counts, even if it is malformed.
                if name.eq_ignore_ascii_case("respond-async") && !seen_respond_async {
                    seen_respond_async = true;
                    preferences.respond_async = value.is_empty();
                } else if name.eq_ignore_ascii_case("wait") && !seen_wait {
                    seen_wait = true;
                    preferences.wait = seconds(value);
                }
            }
        }
        preferences
    }

    /// Returns how long this client waits for its first reply.
    pub(super) fn wait(self, default: Duration, longest: Duration) -> Duration {
        match self.wait {
            Some(seconds) => Duration::from_secs(seconds).min(longest),
            None if self.respond_async => Duration::ZERO,
            None => default,
        }
    }

    /// Returns the value of `Preference-Applied` for a request that has become an operation.
    pub(super) fn applied(self, longest: Duration, has_callback: bool) -> Option<String> {
        let wait = self.wait.filter(|wait| *wait <= longest.as_secs());
        let mut applied = Vec::new();
        if self.respond_async {
            applied.push("respond-async".to_owned());
        }
        applied.extend(wait.map(|wait| format!("wait={wait}")));
        if has_callback {
            applied.push("callback".to_owned());
        }
        (!applied.is_empty()).then(|| applied.join(", "))
    }
}

/// Returns the address of the preference `callback` (OData 4.01; `odata.callback` in OData 4.0): the parameter `url`. The
/// first of repeated preferences counts, even if it is malformed.
pub(super) fn callback(headers: &HeaderMap) -> Option<String> {
    for line in headers.get_all(PREFER) {
        let line = line.to_str().unwrap_or_default();
        for preference in split(line, ',') {
            let mut parts = split(preference, ';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let is_callback = ["callback", "odata.callback"]
                .iter()
                .any(|callback| name.eq_ignore_ascii_case(callback));
            if !is_callback {
                continue;
            }
            let url = parts.find_map(|parameter| {
                let (name, value) = parameter.split_once('=')?;
                let is_url = name.trim().eq_ignore_ascii_case("url");
                is_url.then(|| unquoted(value.trim()))
            })?;
            let is_valid = (1..=MAX_CALLBACK_BYTES).contains(&url.len()) && !url.contains('\\');
            return is_valid.then(|| url.to_owned());
        }
    }
    None
}

/// Parses digits only: the grammar has no sign and no fraction. A number that overflows counts as the longest wait.
fn seconds(value: &str) -> Option<u64> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| value.parse().unwrap_or(u64::MAX))
}

fn unquoted(value: &str) -> &str {
    let inner = value.strip_prefix('"');
    inner
        .and_then(|inner| inner.strip_suffix('"'))
        .unwrap_or(value)
}

/// Splits at a separator outside of quoted strings.
pub(super) fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |character| {
        let in_quotes = quoted;
        if escaped {
            escaped = false;
        } else {
            match character {
                '\\' => escaped = quoted,
                '"' => quoted = !quoted,
                _ => {}
            }
        }
        character == separator && !in_quotes
    })
}
