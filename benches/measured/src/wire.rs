//! axum with and without the layer, called in place, and as a server with `wrk` as its client.

use crate::stacks::{Answers, Asked, Case, head, run, twice};
use crate::times::median;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{Route, get};
use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use std::convert::Infallible;
use std::future::Ready;
use std::hint::black_box;
use std::net::SocketAddr;
use std::process::Command;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tower::retry::{Policy, RetryLayer};
use tower::{Service, ServiceExt, layer::layer_fn, service_fn};
use tower_http::add_extension::AddExtensionLayer;
use tower_promises::{PromiseLayer, Promises};

/// The number of measurements of each server. Each takes a second.
const ROUNDS: usize = 25;

/// Prints requests per second. Prints nothing without `wrk`.
pub fn print() {
    if Command::new("wrk").arg("-v").output().is_err() {
        return;
    }
    // One thread for the server, so that the client has a processor, too.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads can be started");
    let servers = apps().map(|(name, app)| (name, runtime.block_on(serve(app)), Vec::new()));
    let mut servers = Vec::from(servers);
    for round in 0..=ROUNDS {
        for (_, address, rates) in &mut servers {
            let rate = rate(*address);
            // The first round warms up.
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    for (name, _, rates) in servers {
        println!("{name}\t{}", median(rates));
    }
}

/// Clones the head of every request, as a retrying client must, and never retries. The body is left out, because it is
/// not `Clone`.
#[derive(Clone)]
struct CloneHead;

impl Policy<Request, Response, Infallible> for CloneHead {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request,
        _: &mut Result<Response, Infallible>,
    ) -> Option<Self::Future> {
        None
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(clone_head(request))
    }
}

fn clone_head(request: &Request) -> Request {
    let mut clone = Request::default();
    *clone.method_mut() = request.method().clone();
    *clone.uri_mut() = request.uri().clone();
    *clone.version_mut() = request.version();
    *clone.headers_mut() = request.headers().clone();
    *clone.extensions_mut() = request.extensions().clone();
    clone
}

/// Two passes without the layer.
fn by_hand(
    inner: Route,
) -> impl Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + Sync
{
    service_fn(move |request: Request| {
        let first = clone_head(&request);
        twice::<String, _, _>(inner.clone(), first, request)
    })
}

/// The compared apps. The handlers of the apps named `promises` request two promises.
fn apps() -> [(&'static str, Router); 7] {
    let layer = PromiseLayer::new();
    let plain = Router::new().route("/", get(hello));
    [
        ("plain/bare", plain.clone()),
        (
            "plain/extension",
            plain.clone().layer(AddExtensionLayer::new(7_u64)),
        ),
        (
            "plain/stack",
            plain
                .clone()
                .layer(AddExtensionLayer::new(7_u64))
                .layer(RetryLayer::new(CloneHead)),
        ),
        ("plain/layer", plain.layer(layer.clone())),
        ("promises/bare", Router::new().route("/", get(awaiting))),
        (
            "promises/layer",
            Router::new().route("/", get(asking)).layer(layer),
        ),
        (
            "promises/twice",
            Router::new()
                .route("/", get(asking_by_hand))
                .layer(layer_fn(by_hand)),
        ),
    ]
}

/// The same apps without a server.
pub fn cases() -> impl Iterator<Item = Case> {
    apps().into_iter().map(|(name, app)| Case {
        id: format!("axum/{name}"),
        client: Box::new(move |request| {
            let request = request.map(|_| Body::empty());
            drop(black_box(run(app.clone().oneshot(request))));
        }),
        request: root,
        requests: 100,
    })
}

fn root() -> http::Request<Full<Bytes>> {
    let mut request = head();
    *request.uri_mut() = Uri::from_static("/");
    request
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Requests per second.
fn rate(address: SocketAddr) -> f64 {
    let output = Command::new("wrk")
        .args(["--threads=1", "--connections=16", "--duration=1s"])
        .args(["--header=accept: text/html", "--header=user-agent: wrk"])
        .arg(format!("http://{address}/"))
        .output()
        .expect("`wrk` is there");
    let output = String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.contains("Non-2xx"),
        "the server has failed: {output}"
    );
    let rate = output
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"));
    let rate = rate.and_then(|rate| rate.trim().parse().ok());
    rate.unwrap_or_else(|| panic!("`wrk` has not said how many: {output}"))
}

async fn hello() -> &'static str {
    "Hello, Ferris!"
}

async fn name() -> String {
    "Ferris".to_owned()
}

async fn messages() -> u64 {
    7
}

async fn awaiting() -> String {
    let (name, messages) = (name().await, messages().await);
    format!("Hello, {name}! You have {messages} messages.")
}

async fn asking_by_hand(request: Request) -> String {
    if let Some(Answers(answers)) = request.extensions().get::<Answers<String>>() {
        let (name, messages) = (&answers["name"], &answers["messages"]);
        return format!("Hello, {name}! You have {messages} messages.");
    }
    let asked = request.extensions().get::<Asked<String>>();
    let asked = asked.expect("`by_hand` is around");
    asked.ask("name", Box::pin(name()));
    asked.ask("messages", Box::pin(async { messages().await.to_string() }));
    String::new()
}

async fn asking(request: Request) -> String {
    let promises = request.extensions().get::<Promises>();
    let promises = promises.expect("`PromiseLayer` is around");
    let name = promises.result_or_submit("name", name);
    let messages = promises.result_or_submit("messages", messages);
    let (Ok(name), Ok(messages)) = (name, messages) else {
        return String::new();
    };
    format!("Hello, {name}! You have {messages} messages.")
}
