//! Pages with fragments, whole and streamed, and the same page streamed by hand.

use crate::stacks::{Case, Client, Work, head, names, run};
use crate::times::{compare, median, nanoseconds};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use std::convert::Infallible;
use std::fmt::Write;
use std::future::ready;
use std::hint::black_box;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_promises::fragment::FragmentLayer;
use tower_promises::{BoxError, PromiseError, Promises};

/// The numbers of fragments of a page.
const COUNTS: [usize; 2] = [10, 100];

/// The time of the value outside of fragments, and of those inside.
const OUTSIDE: Duration = Duration::from_millis(5);
const INSIDE: Duration = Duration::from_millis(50);

/// The compared pages. Each fragment has one promise, which is woken once.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for count in COUNTS {
        let mut add = |page: &str, client| {
            cases.push(Case {
                id: format!("page/{count}/{page}"),
                client,
                request: head,
                requests: 1000 / count,
            });
        };
        add("whole", layered(count, false));
        add("hand", by_hand(count));
        add("stream", layered(count, true));
    }
    cases
}

/// Prints the times to the first byte and to the last byte.
pub fn print() {
    let runtime = runtime();
    let time = |page: fn() -> _| {
        let mut first = Vec::new();
        let mut sample = || {
            let (to_first, to_last) = runtime.block_on(read(page()));
            first.push(to_first);
            to_last
        };
        let [last] = compare([&mut sample]);
        (median(first), last)
    };
    for (name, page) in [
        ("whole", (|| slow_layered(false)) as fn() -> _),
        ("hand", slow_by_hand),
        ("stream", || slow_layered(true)),
    ] {
        let (first, last) = time(page);
        println!("first/{name}\t{first}");
        println!("last/{name}\t{last}");
    }
}

type Page = BoxFuture<'static, UnsyncBoxBody<Bytes, Infallible>>;

/// Reads a page. Returns the nanoseconds to its first and to its last byte.
async fn read(page: Page) -> (f64, f64) {
    let start = Instant::now();
    let mut body = page.await;
    let frame = body.frame().await;
    let first = start.elapsed();
    drop(black_box(frame));
    drop(black_box(body.collect().await));
    (nanoseconds(first), nanoseconds(start.elapsed()))
}

fn slow_layered(streams: bool) -> Page {
    let handle = |request: Request<_>| {
        let promises = request.extensions().get::<Promises>();
        let promises = promises.expect("`FragmentLayer` is around");
        let mut fragments = String::new();
        for name in &names(11)[1..] {
            let fragment = promises.fragment(*name, "…", move |promises| {
                let value: u64 = promises.result_or_submit(*name, || slow(INSIDE))?;
                Ok::<_, BoxError>(format!("<b>{value}</b>"))
            });
            write!(fragments, "<p>{fragment}</p>").expect("a string can be written");
        }
        let title = promises.result_or_submit("title", || slow(OUTSIDE));
        ready(title.map(|title| html(format!("<h1>{title}</h1>{fragments}"))))
    };
    let layer = FragmentLayer::new()
        .grace(Duration::ZERO)
        .stream_when(move |_| streams);
    let service = layer.layer(service_fn(handle));
    Box::pin(async move {
        let response = service.oneshot(head()).await.expect("no service fails");
        response.into_body().boxed_unsync()
    })
}

fn slow_by_hand() -> Page {
    Box::pin(async {
        let fragments = FuturesUnordered::new();
        for number in 1..=10_u64 {
            let fragment = async move { (number, slow(INSIDE).await) };
            fragments.push(Box::pin(fragment) as FragmentByHand);
        }
        let title = slow(OUTSIDE).await;
        let mut page = format!("<h1>{title}</h1>");
        for number in 1..=10 {
            placeholder(&mut page, number);
        }
        BodyExt::boxed_unsync(StreamBody::new(frames(page, fragments)))
    })
}

async fn slow(time: Duration) -> u64 {
    sleep(time).await;
    1
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime needs no resources")
}

fn html(page: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(page));
    let html = HeaderValue::from_static("text/html");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

fn layered(count: usize, streams: bool) -> Client {
    let handle = move |request: Request<_>| {
        let promises = request.extensions().get::<Promises>();
        let promises = promises.expect("`FragmentLayer` is around");
        let mut page = String::with_capacity(64 * count);
        for (number, &name) in (0..).zip(names(count)) {
            let fragment = promises.fragment(name, "…", move |promises| {
                let yields = true;
                let value: u64 = promises.result_or_submit(name, || Work { number, yields })?;
                Ok::<_, PromiseError>(format!("<b>{value}</b>"))
            });
            write!(page, "<p>{fragment}</p>").expect("a string can be written");
        }
        ready(Ok::<_, BoxError>(html(page)))
    };
    let layer = FragmentLayer::new()
        .grace(Duration::ZERO)
        .stream_when(move |_| streams);
    client(layer.layer(service_fn(handle)))
}

type FragmentByHand = BoxFuture<'static, (u64, u64)>;

/// The page streamed by hand: the markers are written by the handler, which knows all slow values in advance. There is
/// no nesting, no timeout, no error, no limit, and no page without streaming.
fn by_hand(count: usize) -> Client {
    let handle = move |_: Request<Full<Bytes>>| {
        let fragments = FuturesUnordered::new();
        let mut page = String::with_capacity(64 * count);
        for number in 0..count as u64 {
            let yields = true;
            let fragment = async move { (number, Work { number, yields }.await) };
            fragments.push(Box::pin(fragment) as FragmentByHand);
            placeholder(&mut page, number);
        }
        let body = StreamBody::new(frames(page, fragments));
        let mut response = Response::new(body);
        let html = HeaderValue::from_static("text/html");
        response.headers_mut().insert(CONTENT_TYPE, html);
        ready(Ok::<_, BoxError>(response))
    };
    client(service_fn(handle))
}

fn placeholder(page: &mut String, number: u64) {
    write!(page, "<p><?start name=\"{number}\">…<?end></p>").expect("a string can be written");
}

fn frames(
    page: String,
    fragments: FuturesUnordered<FragmentByHand>,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    let fragments = fragments
        .map(|(number, value)| format!("<template for=\"{number}\"><b>{value}</b></template>\n"));
    let parts = futures_util::stream::once(ready(page)).chain(fragments);
    parts.map(|part| Ok(Frame::data(Bytes::from(part))))
}

fn client<S, B>(mut service: S) -> Client
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError> + 'static,
    B: Body<Data = Bytes>,
{
    let runtime = runtime();
    Box::new(move |mut request| {
        let _runtime = runtime.enter();
        *request.method_mut() = http::Method::GET;
        let response = run(service.call(request)).expect("no service fails");
        let mut body = pin!(response.into_body());
        while let Some(frame) = run(body.frame()) {
            drop(black_box(frame.ok()));
        }
    })
}
