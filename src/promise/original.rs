use super::Promises;
use crate::body::ReplayBody;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

/// The request as the client sent it, for the passes after the first.
pub(super) struct Original<B> {
    method: Method,
    uri: Uri,
    version: Version,
    /// A list, because most requests have no second pass: it takes one allocation where a map takes two.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
    /// Never read itself. The bodies of the passes are made from it.
    pub(super) body: ReplayBody<B>,
}

impl<B> Original<B> {
    /// A copy of the head of this request, with this body.
    pub(super) fn of<T>(request: &Request<T>, body: ReplayBody<B>) -> Self {
        let mut headers = Vec::with_capacity(request.headers().len());
        for (name, value) in request.headers() {
            headers.push((name.clone(), value.clone()));
        }
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers,
            extensions: request.extensions().clone(),
            body,
        }
    }

    /// The request of a later pass.
    pub(super) fn request(&self, promises: &Promises) -> Request<ReplayBody<B>> {
        let mut request = Request::new(self.next_body());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        // A map can have more values than it can make room for in advance, which is counted in names.
        let mut headers = HeaderMap::try_with_capacity(self.headers.len()).unwrap_or_default();
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        *request.headers_mut() = headers;
        *request.extensions_mut() = self.extensions.clone();
        request.extensions_mut().insert(promises.clone());
        request
    }

    /// The body of a pass that begins.
    pub(super) fn next_body(&self) -> ReplayBody<B> {
        // An error cannot be: nobody has read a frame since there was none. If it could, reading the body
        // would tell.
        let body = self.body.for_next_pass();
        body.unwrap_or_else(|_| self.body.replay())
    }
}
