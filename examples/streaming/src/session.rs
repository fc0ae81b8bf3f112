//! A session that counts the pages that a reader has opened. It is in a cookie, as small sessions are.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::middleware::Next;
use axum::response::Response;

/// The number of pages, with the current one.
#[derive(Clone, Copy)]
pub(crate) struct Visits(pub(crate) u32);

/// Middleware outside of the passes, so it counts once for a request.
pub(crate) async fn session(mut request: Request, next: Next) -> Response {
    let cookies = request.headers().get(COOKIE);
    let cookies = cookies.and_then(|cookies| cookies.to_str().ok());
    let mut cookies = cookies.unwrap_or_default().split("; ");
    let visits = cookies.find_map(|cookie| cookie.strip_prefix("visits=")?.parse::<u32>().ok());
    let visits = visits.unwrap_or_default().saturating_add(1);
    request.extensions_mut().insert(Visits(visits));
    let mut response = next.run(request).await;
    let cookie = format!("visits={visits}; Path=/; HttpOnly; SameSite=Lax");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}
