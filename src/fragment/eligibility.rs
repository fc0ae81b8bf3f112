//! Which pages may stream.

use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Method, Response, StatusCode, Version, request};
use http_body::Body;

/// Whether the page for this request may stream.
pub(super) fn may_stream(
    request: &request::Parts,
    stream_when: Option<&(dyn Fn(&request::Parts) -> bool + Send + Sync)>,
) -> bool {
    request.method != Method::HEAD
        && request.version >= Version::HTTP_11
        && accepts_html(&request.headers)
        && stream_when.is_none_or(|condition| condition(request))
}

/// What happens to a response whose fragments are pending.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shell {
    /// The fragments follow the response.
    Streams,
    /// A further pass makes the page whole.
    MustBeWhole,
    /// The response has no place for fragments.
    HasNoFragments,
}

impl Shell {
    pub(super) fn of<R: Body>(response: &Response<R>) -> Self {
        let status = response.status();
        let has_content = !matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
        if status.is_redirection() || !has_content || response.body().is_end_stream() {
            return Self::HasNoFragments;
        }
        let headers = response.headers();
        match is_html(headers) && !is_encoded(headers) {
            true => Self::Streams,
            false => Self::MustBeWhole,
        }
    }
}

/// Whether `Accept` names `text/html`, not only a range that includes it (RFC 9110, section 12.5.1).
fn accepts_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let mut ranges = values.flat_map(|value| value.split(','));
    ranges.any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_html = parts.next().is_some_and(is_html_type);
        is_html && !parts.any(is_weight_of_zero)
    })
}

/// Whether a parameter of a media range is the weight zero, which excludes the range.
fn is_weight_of_zero(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let weight = value.trim().parse::<f32>();
    name.trim().eq_ignore_ascii_case("q") && weight.is_ok_and(|weight| weight <= 0.0)
}

fn is_html(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| is_html_type(essence.trim()))
}

fn is_html_type(essence: &str) -> bool {
    essence.eq_ignore_ascii_case("text/html")
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING);
    encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}
