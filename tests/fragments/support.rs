//! A page that streams, and a client that notes when its parts arrive.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use std::fmt::Debug;
use std::future::ready;
use std::time::Duration;
use test_support::{Counter, TestBody, TestRequest, promises};
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::fragment::FragmentLayer;
use tower_promises::{BoxError, PromiseError, Promises};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What a client has received.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) head: response::Parts,
    /// The frames, each with the time since the request.
    pub(crate) frames: Vec<(Duration, String)>,
    pub(crate) trailers: Option<HeaderMap>,
    /// The number of runs of the handler.
    pub(crate) passes: usize,
}

impl Page {
    /// The whole body.
    pub(crate) fn text(&self) -> String {
        self.frames.iter().map(|(_, text)| &**text).collect()
    }
}

/// A request of a browser.
pub(crate) fn browser(uri: &str) -> Request<TestBody> {
    let accept = "text/html,application/xhtml+xml,*/*;q=0.8";
    let request = Request::get(uri).header(ACCEPT, accept);
    request.body(Full::default()).unwrap()
}

pub(crate) fn html(body: impl Into<String>) -> Response<TestBody> {
    let mut response = Response::new(Full::from(body.into()));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

/// Sends the request of a browser through `layer` to a synchronous handler.
pub(crate) async fn open(
    layer: FragmentLayer,
    handler: impl Fn(&Promises) -> Result<String, BoxError> + Clone,
) -> Page {
    open_with(layer, browser("/"), move |promises| {
        handler(promises).map(html)
    })
    .await
}

/// Sends a request through `layer` to a synchronous handler.
pub(crate) async fn open_with(
    layer: FragmentLayer,
    request: Request<TestBody>,
    handler: impl Fn(&Promises) -> Result<Response<TestBody>, BoxError> + Clone,
) -> Page {
    let (start, passes) = (Instant::now(), Counter::default());
    let service = layer.layer(service_fn(|request: TestRequest| {
        passes.add();
        ready(handler(&promises(&request)))
    }));
    let response = service.oneshot(request).await.unwrap();
    let mut page = read(start, response).await;
    page.passes = passes.get();
    page
}

/// Reads a response to its end.
pub(crate) async fn read<B>(start: Instant, response: Response<B>) -> Page
where
    B: Body<Data = Bytes, Error: Debug>,
{
    let (head, body) = response.into_parts();
    let mut body = Box::pin(body);
    let (mut frames, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => {
                let text = String::from_utf8(data.to_vec()).unwrap();
                frames.push((start.elapsed(), text));
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Page {
        head,
        frames,
        trailers,
        passes: 0,
    }
}

/// Reads a promise that takes some time.
pub(crate) fn after(
    promises: &Promises,
    name: &'static str,
    time: Duration,
) -> Result<String, PromiseError> {
    promises.result_or_submit(name, move || async move {
        tokio::time::sleep(time).await;
        name.to_owned()
    })
}
