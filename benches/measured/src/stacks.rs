//! The compared services and their requests.
//!
//! No code here needs a runtime: every future either is ready or wakes itself, so requests are polled to completion in
//! place, and only the services are measured.

use crate::{fairness, safe};
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use http::{HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use std::collections::HashMap;
use std::future::{Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use tower::retry::{Policy, RetryLayer};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::add_extension::AddExtensionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_promises::{BoxError, PromiseLayer, Promises};

/// The numbers of promises of a request.
pub const COUNTS: [usize; 4] = [1, 10, 100, 10_000];

/// Sends one request to one service, from the call to the drop of the response.
pub type Client = Box<dyn FnMut(Request<Full<Bytes>>)>;

/// A service with its requests.
pub struct Case {
    /// The request, then the service, for example `head/bare`.
    pub id: String,
    pub client: Client,
    pub request: fn() -> Request<Full<Bytes>>,
    /// The number of requests of a sample. Slower requests need fewer.
    pub requests: usize,
}

impl Case {
    /// Sends each request right after creating it, as a server does, so that the allocator is in the same state as in a
    /// server. Callgrind writes its counts at the end of this function.
    #[inline(never)]
    pub fn sample(&mut self) {
        for _ in 0..self.requests {
            let request = (self.request)();
            measured(&mut self.client, request);
        }
    }

    /// Sends a request before measuring, because state of a process or a thread is not a cost of a request.
    pub fn warm_up(&mut self) {
        (self.client)((self.request)());
    }

    /// The name of the case without the service.
    pub fn kind(&self) -> &str {
        self.id.rsplit_once('/').map_or("", |(kind, _)| kind)
    }
}

/// Sends a request. Callgrind counts only inside this function.
#[inline(never)]
pub fn measured(client: &mut Client, request: Request<Full<Bytes>>) {
    client(request);
}

/// All compared cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, request) in [
        ("head", head as fn() -> _),
        ("connection", head_of_a_connection),
        ("body", head_and_body),
    ] {
        let mut add = |service: &str, client| {
            cases.push(Case {
                id: format!("{name}/{service}"),
                client,
                request,
                requests: 100,
            });
        };
        // Only a request with a body can have it collected.
        let reads = name == "body";
        add("bare", client(service_fn(move |r| answer(r, reads))));
        add("limit", client(limited(reads)));
        add("retry", client(retried(reads)));
        add("stack", client(stacked(reads)));
        if reads {
            add("collect", client(collected()));
        }
        add("layer", client(layered(reads)));
    }
    for (name, yields) in [("ready", false), ("woken", true)] {
        for count in COUNTS {
            let mut add = |service: &str, client| {
                cases.push(Case {
                    id: format!("{name}/{count}/{service}"),
                    client,
                    request: head,
                    requests: (1000 / count).clamp(2, 100),
                });
            };
            add("safe", client(safe::service(count, yields)));
            add("bounded", client(promised(count, yields, Some(2))));
            add("twice", client(by_hand(count, yields)));
            add("layer", client(promised(count, yields, None)));
        }
    }
    cases.extend(fairness::cases());
    cases
}

// ---- Requests

/// A request with three headers, each with its own buffer.
pub fn head() -> Request<Full<Bytes>> {
    Request::builder()
        .uri("/shelves/7/books?page=2")
        .header("host", "library.example")
        .header("accept", "text/html,application/xhtml+xml")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64)")
        .body(Full::default())
        .expect("the request is well-formed")
}

/// The same request as a server reads it from a connection: all strings are parts of one buffer.
fn head_of_a_connection() -> Request<Full<Bytes>> {
    static BUFFER: &str = "/shelves/7/books?page=2library.exampletext/html,application/xhtml+xmlMozilla/5.0 (X11; Linux x86_64)";
    let buffer = Bytes::from(Arc::<[u8]>::from(BUFFER.as_bytes()).to_vec());
    // A second handle makes the buffer shared, like that of a connection.
    let _connection = buffer.clone();
    let value = |from, to| HeaderValue::from_maybe_shared(buffer.slice(from..to)).expect("is text");
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from_maybe_shared(buffer.slice(..23)).expect("is a URI");
    let headers = request.headers_mut();
    headers.insert(http::header::HOST, value(23, 38));
    headers.insert(http::header::ACCEPT, value(38, 69));
    headers.insert(http::header::USER_AGENT, value(69, BUFFER.len()));
    request
}

/// A form of 300 bytes.
fn head_and_body() -> Request<Full<Bytes>> {
    let mut request = head();
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = Full::from(vec![b'x'; 300]);
    request
}

// ---- Services without promises

async fn answer<B>(request: Request<B>, reads: bool) -> Result<Response<Full<Bytes>>, BoxError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if !reads {
        return Ok(Response::default());
    }
    let body = request.into_body().collect().await.map_err(Into::into)?;
    Ok(Response::new(Full::new(body.to_bytes())))
}

/// `AddExtension` and `RequestBodyLimit` of tower-http.
fn limited(
    reads: bool,
) -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = BoxError> + Clone {
    ServiceBuilder::new()
        .layer(AddExtensionLayer::new(Arc::new(7_u64)))
        .layer(RequestBodyLimitLayer::new(2 << 20))
        .service(service_fn(move |r| answer(r, reads)))
}

/// Clones every request, as a retrying client must, and never retries.
#[derive(Clone)]
struct CloneRequest;

impl<B, R, E> Policy<Request<B>, R, E> for CloneRequest
where
    B: Clone,
{
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<B>, _: &mut Result<R, E>) -> Option<Self::Future> {
        None
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

/// `tower::retry` with a cloned request.
fn retried(
    reads: bool,
) -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = BoxError> + Clone {
    ServiceBuilder::new()
        .layer(RetryLayer::new(CloneRequest))
        .service(service_fn(move |r| answer(r, reads)))
}

/// The baseline for the layer: the request is cloned, and each call gets an extension.
fn stacked(
    reads: bool,
) -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = BoxError> + Clone {
    ServiceBuilder::new()
        .layer(RetryLayer::new(CloneRequest))
        .layer(AddExtensionLayer::new(Arc::new(7_u64)))
        .service(service_fn(move |r| answer(r, reads)))
}

/// The same for a body that is not `Clone`, like that of a connection, which has to be collected first.
fn collected() -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = BoxError> + Clone {
    let stack = stacked(true);
    service_fn(move |request: Request<Full<Bytes>>| {
        let stack = stack.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let request = Request::from_parts(parts, Full::new(body));
            stack.oneshot(request).await
        }
    })
}

fn layered(
    reads: bool,
) -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = BoxError> + Clone {
    ServiceBuilder::new()
        .layer(PromiseLayer::new())
        .service(service_fn(move |r| answer(r, reads)))
}

// ---- Services with promises

/// The work of a promise: returns its number at the first or at the second poll.
pub struct Work {
    pub number: u64,
    pub yields: bool,
}

impl Future for Work {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u64> {
        if std::mem::take(&mut self.yields) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.number)
    }
}

/// The names of promises. They are static, so that they cost nothing on either side.
pub fn names(count: usize) -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    let most = COUNTS[COUNTS.len() - 1];
    let name = |number| &*Box::leak(format!("promise:{number}").into_boxed_str());
    &NAMES.get_or_init(|| (0..most).map(name).collect())[..count]
}

pub fn total(count: usize) -> u64 {
    (0..count as u64).sum()
}

/// A handler that requests `count` promises by name and adds up their values. With `max_passes(2)` the layer need not
/// keep the request for a third pass.
fn promised(
    count: usize,
    yields: bool,
    max_passes: Option<usize>,
) -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = BoxError> + Clone {
    let handle = move |request: Request<_>| {
        let promises = request.extensions().get::<Promises>();
        let promises = promises.expect("`PromiseLayer` is around");
        let mut sum = 0;
        for (number, &name) in (0..).zip(names(count)) {
            let value: Result<u64, _> = promises.result_or_submit(name, || Work { number, yields });
            sum += value.unwrap_or(0);
        }
        assert!(promises.pass() == 1 || sum == total(count));
        ready(Ok::<_, BoxError>(Response::<Full<Bytes>>::default()))
    };
    let mut layer = PromiseLayer::new().max_promises(count);
    if let Some(max_passes) = max_passes {
        layer = layer.max_passes(max_passes);
    }
    ServiceBuilder::new()
        .layer(layer)
        .service(service_fn(handle))
}

type Wish<T> = (&'static str, BoxFuture<'static, T>);

/// The requests of the handler of the hand-written service, in its first pass.
#[derive(Clone)]
pub struct Asked<T>(Arc<Mutex<Vec<Wish<T>>>>);

impl<T> Asked<T> {
    pub fn ask(&self, name: &'static str, work: BoxFuture<'static, T>) {
        self.0.lock().expect("nothing panics").push((name, work));
    }
}

/// The answers for the handler of the hand-written service, in its second pass.
#[derive(Clone)]
pub struct Answers<T>(pub Arc<HashMap<&'static str, T>>);

/// The same without the layer, hand-written for one handler: all values have one type, no name is requested twice, no
/// promise fails or panics, there are no limits, and the body is `Clone`.
fn by_hand(
    count: usize,
    yields: bool,
) -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = BoxError> + Clone {
    let handle = move |request: Request<Full<Bytes>>| {
        let answers = request.extensions().get::<Answers<u64>>();
        let asked = request.extensions().get::<Asked<u64>>();
        let mut sum = 0;
        for (number, &name) in (0..).zip(names(count)) {
            match (answers, asked) {
                (Some(answers), _) => sum += answers.0[name],
                (None, Some(asked)) => asked.ask(name, Box::pin(Work { number, yields })),
                (None, None) => unreachable!("one of them is there in each pass"),
            }
        }
        assert!(answers.is_none() || sum == total(count));
        ready(Ok::<_, BoxError>(Response::<Full<Bytes>>::default()))
    };
    let inner = service_fn(handle);
    service_fn(move |request: Request<Full<Bytes>>| {
        let first = request.clone();
        twice::<u64, _, _>(inner, first, request)
    })
}

/// Calls a service, and calls it again with the answers to its requests.
pub async fn twice<T, S, B>(
    mut inner: S,
    mut first: Request<B>,
    mut request: Request<B>,
) -> Result<S::Response, S::Error>
where
    T: Clone + Send + Sync + 'static,
    S: Service<Request<B>>,
{
    let asked = Asked::<T>(Arc::default());
    first.extensions_mut().insert(asked.clone());
    let response = inner.ready().await?.call(first).await?;
    let asked = std::mem::take(&mut *asked.0.lock().expect("nothing panics"));
    if asked.is_empty() {
        return Ok(response);
    }
    drop(response);
    let (names, work): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    let answers = names.into_iter().zip(join_all(work).await).collect();
    let answers = Answers(Arc::new(answers));
    request.extensions_mut().insert(answers);
    inner.ready().await?.call(request).await
}

// ---- Clients

fn client<S>(mut service: S) -> Client
where
    S: Service<Request<Full<Bytes>>, Error = BoxError> + 'static,
{
    Box::new(move |request| {
        run(poll_fn(|cx| service.poll_ready(cx))).expect("is always ready");
        let response = run(service.call(request));
        drop(black_box(response.expect("no service fails")));
    })
}

/// Polls a future to completion. It needs no waker, because every pending future has already been woken.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
