//! Fragments in an axum router, with layers outside and inside.

use crate::support::{SECOND, pending, problems, template, without_grace};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, COOKIE, SET_COOKIE};
use http_body_util::BodyExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::Log;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::compression::CompressionLayer;
use tower_http::decompression::DecompressionLayer;
use tower_http::trace::TraceLayer;
use tower_promises::backend::Backend;
use tower_promises::fragment::FragmentLayer;
use tower_promises::observe::ServerTimingLayer;
use tower_promises::operations::OperationLayer;
use tower_promises::promise::MissingPromiseLayer;
use tower_promises::{PromiseError, Promises};

/// Lets fragments be ready.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn open(&self) {
        self.0.add_permits(1);
    }
}

/// An application whose page has a fragment behind a gate.
pub(crate) fn app(gate: &Gate, size: usize) -> Router {
    let gate = gate.clone();
    let page = async move |promises: Promises| {
        let title: String = promises.result_or_submit("title", async || "Tea".to_owned())?;
        let price = promises.fragment("price", "<i>…</i>", move |promises| {
            let gate = gate.clone();
            promises.result_or_submit("price", || async move {
                gate.0.acquire().await.unwrap().forget();
                format!("<b>42 €</b>{}", "x".repeat(size))
            })
        });
        let page = format!("<html><body><h1>{title}</h1>{price}</body></html>");
        Ok::<_, PromiseError>(([("set-cookie", "seen=1")], Html(page)))
    };
    Router::new().route("/", get(page))
}

pub(crate) fn shell() -> String {
    format!("<html><body><h1>Tea</h1>{}", pending(1, "<i>…</i>"))
}

pub(crate) fn rest(size: usize) -> String {
    let html = format!("<b>42 €</b>{}", "x".repeat(size));
    template(1, &html) + "</body></html>"
}

/// Waits with a timeout, so that a test fails instead of hanging.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    let waited = timeout(Duration::from_secs(120), future).await;
    waited.expect("the future resolves in time")
}

pub(crate) fn request() -> http::request::Builder {
    Request::get("/").header(ACCEPT, "text/html,*/*;q=0.8")
}

fn browser() -> Request {
    request().body(Body::empty()).unwrap()
}

/// Reads frames until a text has arrived.
pub(crate) async fn read_until<B>(body: &mut B, end: &str) -> String
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(end) {
        let frame = soon(body.frame()).await.expect("the body goes on").unwrap();
        bytes.extend_from_slice(&frame.into_data().unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// Reads the rest of the page after its gate has opened.
async fn pass_gate(gate: &Gate, response: Response) -> String {
    let mut body = response.into_body();
    let mut text = read_until(&mut body, "<?end>").await;
    assert!(!text.contains("42"), "{text}");
    gate.open();
    text += &*String::from_utf8(soon(body.collect()).await.unwrap().to_bytes().to_vec()).unwrap();
    text
}

#[tokio::test]
async fn compression_and_tracing_outside_pass_each_part_on_at_once() {
    let log = Log::start();
    let gate = Gate::closed();
    let app = app(&gate, 10).layer(
        ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(CompressionLayer::new())
            .layer(without_grace()),
    );
    let request = request()
        .header(ACCEPT_ENCODING, "gzip")
        .body(Body::empty())
        .unwrap();
    let client = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .service(app);
    let response = soon(client.oneshot(request)).await.unwrap();
    let vary: Vec<_> = response.headers().get_all("vary").iter().collect();
    assert!(
        vary.iter().any(|it| *it == "accept-encoding") && vary.iter().any(|it| *it == "accept")
    );
    let response = response.map(Body::new);
    assert_eq!(pass_gate(&gate, response).await, shell() + &*rest(10));
    assert!(problems(&log).is_empty(), "{:?}", problems(&log));
}

#[tokio::test]
async fn compression_inside_makes_the_page_whole() {
    let gate = Gate::closed();
    gate.open();
    let app = app(&gate, 100)
        .layer(CompressionLayer::new())
        .layer(without_grace());
    let request = request()
        .header(ACCEPT_ENCODING, "gzip")
        .body(Body::empty())
        .unwrap();
    let client = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .service(app);
    let response = soon(client.oneshot(request)).await.unwrap();
    assert!(!response.headers().contains_key("incremental"));
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let page = format!(
        "<html><body><h1>Tea</h1><b>42 €</b>{}</body></html>",
        "x".repeat(100)
    );
    assert_eq!(text, page);
}

#[tokio::test]
async fn a_session_layer_inside_sets_its_cookie_once() {
    /// Gives each client without a session a new one.
    async fn session(request: Request, next: Next) -> Response {
        let promises: Promises = request.extensions().get().cloned().unwrap();
        let known = request.headers().contains_key(COOKIE);
        let mut response = next.run(request).await;
        if !known {
            let cookie = format!("session={}", promises.pass()).parse().unwrap();
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        response
    }
    let gate = Gate::closed();
    let app = app(&gate, 0).layer(from_fn(session)).layer(without_grace());
    let response = soon(app.oneshot(browser())).await.unwrap();
    let cookies: Vec<_> = response.headers().get_all(SET_COOKIE).iter().collect();
    assert_eq!(cookies, ["seen=1", "session=2"]);
    assert_eq!(pass_gate(&gate, response).await, shell() + &*rest(0));
}

/// Records how the transactions of passes ended.
type Ledger = Arc<Mutex<Vec<&'static str>>>;

/// Commits what a pass has written if its response is published.
fn with_transactions(app: Router, ledger: &Ledger) -> Router {
    let ledger = Arc::clone(ledger);
    app.layer(from_fn(move |request: Request, next: Next| {
        let ledger = Arc::clone(&ledger);
        async move {
            let promises: Promises = request.extensions().get().cloned().unwrap();
            let response = next.run(request).await;
            let end = match promises.will_discard() {
                true => "rolled back",
                false => "committed",
            };
            ledger.lock().unwrap().push(end);
            let ledger = Arc::clone(&ledger);
            promises.on_discard(move || ledger.lock().unwrap().push("undone"));
            response
        }
    }))
}

#[tokio::test]
async fn a_transaction_is_committed_once_with_the_page() {
    let (gate, ledger) = (Gate::closed(), Ledger::default());
    let app = with_transactions(app(&gate, 0), &ledger).layer(without_grace());
    let response = soon(app.oneshot(browser())).await.unwrap();
    assert_eq!(
        *ledger.lock().unwrap(),
        ["rolled back", "undone", "committed"]
    );
    assert_eq!(pass_gate(&gate, response).await, shell() + &*rest(0));
    assert_eq!(
        *ledger.lock().unwrap(),
        ["rolled back", "undone", "committed"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_transaction_of_an_operation_is_committed_once() {
    let ledger = Ledger::default();
    // The first pass ends at once, and the second one after the request has become an operation.
    for waits in [false, true] {
        let page = async move |promises: Promises| {
            let price = promises.fragment("price", "…", |promises| {
                promises.result_or_submit("price", async || {
                    sleep(5 * SECOND).await;
                    "42".to_owned()
                })
            });
            if waits {
                promises.result_or_submit("title", async || sleep(SECOND).await)?;
            }
            Ok::<_, PromiseError>(Html(price.to_string()))
        };
        let app = with_transactions(Router::new().route("/", get(page)), &ledger);
        let app = app.layer(without_grace());
        let app = app.layer(OperationLayer::new(Backend::memory()));
        let mut request = browser();
        let at_once = http::HeaderValue::from_static("respond-async");
        request.headers_mut().insert("prefer", at_once);
        app.clone().oneshot(request).await.unwrap();
        sleep(10 * SECOND).await;
        let ended = std::mem::take(&mut *ledger.lock().unwrap());
        let committed = ended.iter().filter(|it| **it == "committed").count();
        assert_eq!(
            (committed, ended.last()),
            (1, Some(&"committed")),
            "{ended:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn server_timing_outside_shows_what_the_page_waited_for() {
    let page = async |promises: Promises| {
        let price = promises.fragment("price", "…", |promises| {
            promises.result_or_submit("price", async || {
                sleep(5 * SECOND).await;
                "42".to_owned()
            })
        });
        promises.result_or_submit("title", async || sleep(SECOND).await)?;
        Ok::<_, PromiseError>(Html(price.to_string()))
    };
    let layer = ServiceBuilder::new()
        .layer(ServerTimingLayer::new(|_: &http::request::Parts| true))
        .layer(without_grace());
    let app = Router::new().route("/", get(page)).layer(layer);
    let (start, response) = (Instant::now(), app.oneshot(browser()).await.unwrap());
    let header = response.headers()["server-timing"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(header.contains("title"), "{header}");
    assert!(!header.contains("price"), "{header}");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, pending(1, "…") + &*template(1, "42"));
    assert_eq!(start.elapsed(), 5 * SECOND);
}

/// A router sets the `Content-Length` of the page that the handler has returned, so there is nothing to advise.
#[tokio::test(start_paused = true)]
async fn a_router_inside_causes_no_warning() {
    let (gate, log) = (Gate::closed(), Log::start());
    let app = without_grace().layer(app(&gate, 0));
    let response = soon(app.oneshot(browser())).await.unwrap();
    assert!(!response.headers().contains_key(CONTENT_LENGTH));
    let response = response.map(Body::new);
    assert_eq!(pass_gate(&gate, response).await, shell() + &*rest(0));
    assert_eq!(problems(&log), [""; 0]);
}

/// The layer knows before a pass ends that its page has to be whole, so no transaction of that pass is committed.
#[tokio::test(start_paused = true)]
async fn a_transaction_is_committed_once_whenever_its_request_becomes_an_operation() {
    // The page creates its fragment after six seconds, and returns after eight.
    for prefer in [
        "respond-async",
        "respond-async, wait=5",
        "respond-async, wait=7",
    ] {
        let (gate, ledger) = (Gate::closed(), Ledger::default());
        gate.open();
        let app = app(&gate, 0).layer(from_fn(async |request: Request, next: Next| {
            sleep(2 * SECOND).await;
            let response = next.run(request).await;
            sleep(2 * SECOND).await;
            response
        }));
        let operations = OperationLayer::new(Backend::memory());
        let mut request = browser();
        let prefer = http::HeaderValue::from_static(prefer);
        request.headers_mut().insert("prefer", prefer);
        let app = with_transactions(app, &ledger).layer(without_grace());
        let response = app.layer(operations).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 303);
        sleep(60 * SECOND).await;
        let ledger = ledger.lock().unwrap();
        let commits = ledger.iter().filter(|end| **end == "committed").count();
        assert_eq!(commits, 1, "{ledger:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn operations_outside_stream_pages_and_keep_whole_results() {
    let page = async |promises: Promises| {
        let price = promises.fragment("price", "…", |promises| {
            promises.result_or_submit("price", async || {
                sleep(5 * SECOND).await;
                "42".to_owned()
            })
        });
        promises.result_or_submit("title", async || sleep(SECOND).await)?;
        Ok::<_, PromiseError>(Html(price.to_string()))
    };
    let operations = OperationLayer::new(Backend::memory());
    let app = Router::new().route("/", get(page)).layer(without_grace());
    let app = app.layer(operations);
    // The client waits for the beginning of the page, so the page is no operation.
    let (start, response) = (
        Instant::now(),
        app.clone().oneshot(browser()).await.unwrap(),
    );
    assert_eq!((response.status().as_u16(), start.elapsed()), (200, SECOND));
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, pending(1, "…") + &*template(1, "42"));
    // This request is an operation before its page begins.
    let mut request = browser();
    let at_once = http::HeaderValue::from_static("respond-async");
    request.headers_mut().insert("prefer", at_once);
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 303);
    sleep(10 * SECOND).await;
    let status = response.headers()["location"].to_str().unwrap();
    let result = Request::get(format!("{status}/result"));
    let response = app.oneshot(result.body(Body::empty()).unwrap()).await;
    let text = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(text.to_bytes(), "42");
}

#[tokio::test]
async fn a_layer_that_is_missing_is_an_error() {
    let page = async || match Promises::try_current() {
        Ok(_) => unreachable!("there is no layer"),
        Err(error) => {
            let _: &MissingPromiseLayer = &error;
            error.into_response()
        }
    };
    let app = Router::new().route("/", get(page));
    assert_eq!(app.oneshot(browser()).await.unwrap().status(), 500);
    let app = Router::new()
        .route("/", get(async || "a page"))
        .layer(FragmentLayer::new());
    assert_eq!(app.oneshot(browser()).await.unwrap().status(), 200);
}
