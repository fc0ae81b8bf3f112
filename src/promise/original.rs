use super::Promises;
use crate::body::ReplayBody;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use std::mem;

/// The request as the client sent it, as a template for later passes.
pub(super) struct Original<B> {
    method: Method,
    uri: Uri,
    version: Version,
    /// A list instead of a map, because most requests have no second pass: a list takes one allocation, a map two.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
    /// Never read itself. The bodies of all passes are created from it.
    pub(super) body: ReplayBody<B>,
}

impl<B> Original<B> {
    /// Copies the head of a request and adds `body`.
    pub(super) fn of(head: &Parts, body: ReplayBody<B>) -> Self {
        let mut headers = Vec::with_capacity(head.headers.len());
        for (name, value) in &head.headers {
            headers.push((name.clone(), value.clone()));
        }
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            headers,
            extensions: head.extensions.clone(),
            body,
        }
    }

    /// Creates the request of a later pass.
    pub(super) fn request(&self, promises: &Promises) -> Request<ReplayBody<B>> {
        let mut request = Request::new(self.body.for_pass());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = map(self.headers.len(), self.headers.iter().cloned());
        *request.extensions_mut() = self.extensions.clone();
        request.extensions_mut().insert(promises.clone());
        request
    }

    /// Moves the request into a pass that no further pass can follow.
    pub(super) fn take_request(&mut self, promises: &Promises) -> Request<ReplayBody<B>> {
        let mut request = Request::new(self.body.for_pass());
        *request.method_mut() = mem::take(&mut self.method);
        *request.uri_mut() = mem::take(&mut self.uri);
        *request.version_mut() = self.version;
        let headers = mem::take(&mut self.headers);
        *request.headers_mut() = map(headers.len(), headers);
        *request.extensions_mut() = mem::take(&mut self.extensions);
        request.extensions_mut().insert(promises.clone());
        request
    }
}

fn map(count: usize, headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> HeaderMap {
    // A map may hold more values than it can reserve, because it reserves space for names, of which it allows fewer.
    let mut map = HeaderMap::try_with_capacity(count).unwrap_or_default();
    for (name, value) in headers {
        map.append(name, value);
    }
    map
}
