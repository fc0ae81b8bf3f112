//! A page that streams, and a client that notes when its parts arrive.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, response};
use http_body::Body;
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use test_support::{Counter, Log, TestBody, TestRequest, promises};
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
    html_of(Full::from(body.into()))
}

/// A page with this body.
pub(crate) fn html_of<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
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
pub(crate) async fn open_with<R>(
    layer: FragmentLayer,
    request: Request<TestBody>,
    handler: impl Fn(&Promises) -> Result<Response<R>, BoxError> + Clone,
) -> Page
where
    R: Body<Data = Bytes, Error: Debug> + From<Bytes>,
{
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
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        frames.push((start.elapsed(), String::from_utf8(data.to_vec()).unwrap()));
    }
    Page {
        head,
        frames,
        passes: 0,
    }
}

/// Reads a promise that takes some time. Its value is its name.
pub(crate) fn after(
    promises: &Promises,
    name: impl Into<String>,
    time: Duration,
) -> Result<String, PromiseError> {
    let name = name.into();
    promises.result_or_submit(name.clone(), move || async move {
        tokio::time::sleep(time).await;
        name
    })
}

/// A layer that does not wait for fragments before the page begins.
pub(crate) fn without_grace() -> FragmentLayer {
    FragmentLayer::new().grace(Duration::ZERO)
}

/// The marker before a pending fragment.
pub(crate) fn start(number: usize) -> String {
    format!("<?start name=\"tp{number}\">")
}

/// A pending fragment.
pub(crate) fn pending(number: usize, fallback: &str) -> String {
    format!("{}{fallback}<?end>", start(number))
}

/// A fragment that follows its page.
pub(crate) fn template(number: usize, html: &str) -> String {
    format!("<template for=\"tp{number}\">{html}</template>\n")
}

/// A body of frames that are there at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames(pub(crate) VecDeque<Bytes>);

impl Frames {
    pub(crate) fn of(frames: &[&str]) -> Self {
        let frames = frames
            .iter()
            .map(|it| Bytes::copy_from_slice(it.as_bytes()));
        Self(frames.collect())
    }
}

impl From<Bytes> for Frames {
    fn from(frame: Bytes) -> Self {
        Self([frame].into())
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|it| Ok(Frame::data(it))))
    }
}

/// The warnings and errors in a log.
pub(crate) fn problems(log: &Log) -> Vec<String> {
    let text = log.text();
    let is_problem = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
    text.lines().filter(is_problem).map(str::to_owned).collect()
}
