//! A service with observability: spans for OpenTelemetry on stdout, a log on stderr, metrics for Prometheus, and the
//! timings of a page in the developer tools of the browser. The metrics are those of promises, operations, tasks and
//! signals.
//!
//! Start it with `cargo run -p example-observability`.

mod orders;
mod telemetry;

use axum::body::Body;
use axum::extract::{ConnectInfo, Query};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Router, serve};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::sleep;
use tower::ServiceBuilder;
use tower_http::trace::TraceLayer;
use tower_promises::backend::Backend;
use tower_promises::observe::ServerTimingLayer;
use tower_promises::signals::Signals;
use tower_promises::tasks::{Task, TaskContext, TaskFailure, TaskLayer, TaskQueueOptions, Tasks};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};
use tracing::{Instrument, info, info_span};

#[derive(Deserialize)]
struct Parameters {
    #[serde(default = "ferris")]
    user: String,
}

fn ferris() -> String {
    "Ferris".into()
}

/// Stands for a query of a database driver, which takes some time and has a span of its own.
async fn query(statement: &'static str, milliseconds: u64) -> u32 {
    let wait = async {
        sleep(Duration::from_millis(milliseconds)).await;
        info!("the database has answered");
    };
    wait.instrument(info_span!("query", statement)).await;
    7
}

/// Two promises, the second of which needs the first. They cause one more pass.
fn orders(promises: &Promises, user: &str) -> Result<u32, PromiseError> {
    let id: u32 = promises.result_or_submit(format!("user:{user}"), async || {
        query("select id from users", 40).await
    })?;
    promises.result_or_submit(format!("orders:{id}"), async || {
        query("select count(*) from orders", 60).await
    })
}

/// A promise that always fails.
fn advertisement(promises: &Promises) -> Result<String, PromiseError> {
    promises.result_or_try_submit("advertisement", async || {
        sleep(Duration::from_millis(20)).await;
        Err::<String, _>("the advertisement server does not answer")
    })
}

/// A blocking promise that computes on a thread.
fn primes(promises: &Promises) -> Result<usize, PromiseError> {
    promises.result_or_submit_blocking("primes", || {
        let is_prime = |n: &u32| (2..*n).all(|divisor| !n.is_multiple_of(divisor));
        (2..5000).filter(is_prime).count()
    })
}

/// Work for another service. Here a worker in this process does it; with another backend, a worker in another process.
/// The span of the task continues the trace of the page.
#[derive(Serialize, Deserialize)]
struct Invoice {
    user: String,
}

impl Task for Invoice {
    const NAME: &'static str = "invoice";
    type Output = String;

    async fn run(self, _: TaskContext) -> Result<String, TaskFailure> {
        query("insert into invoices", 30).await;
        Ok(format!("an invoice for {}", self.user))
    }
}

fn invoice(promises: &Promises, tasks: &Tasks, user: &str) -> Result<String, PromiseError> {
    promises.result_or_try_submit("invoice", || {
        let user = user.to_owned();
        tasks.queue("office").call(Invoice { user })
    })
}

/// The slowest promise of the page.
fn weather(promises: &Promises) -> Result<&'static str, PromiseError> {
    promises.result_or_submit("weather", async || {
        sleep(Duration::from_millis(150)).await;
        "sunny"
    })
}

/// Escapes a text for HTML. A user name in a link comes from an untrusted source.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

async fn page(
    Query(parameters): Query<Parameters>,
    promises: Promises,
    tasks: Tasks,
) -> Result<Html<String>, StatusCode> {
    // All promises are submitted before the first is read, so that they run concurrently.
    let (orders, primes) = (orders(&promises, &parameters.user), primes(&promises));
    let (weather, advertisement) = (weather(&promises), advertisement(&promises));
    let invoice = invoice(&promises, &tasks, &parameters.user);
    let status = |error: PromiseError| error.status();
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><title>observability</title>\
         <p>{} orders, {}, {} primes, {} weather, {}.\
         <p>See where the time went: in the developer tools, Network, this page, Timing.",
        orders.map_err(status)?,
        escaped(&invoice.map_err(status)?),
        primes.map_err(status)?,
        weather.map_err(status)?,
        advertisement.unwrap_or_else(|_| "no advertisement".into()),
    )))
}

/// Shows names and timings to clients on this machine only. Behind a proxy on the same machine every client is local:
/// check for a staff session there instead, and never for a value that clients can choose.
fn is_local(request: &Parts) -> bool {
    let peer = request.extensions.get::<ConnectInfo<SocketAddr>>();
    peer.is_some_and(|ConnectInfo(address)| address.ip().is_loopback())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let spans = telemetry::trace();
    let metrics = telemetry::measure()?;

    let backend = Backend::memory();
    let office = TaskQueueOptions::new("office").task::<Invoice>();
    let tasks = Tasks::builder(backend.clone())
        .queue(office.task::<orders::CleanUp>())
        .schedule(orders::schedule()?)
        .make_span_with(telemetry::task_span)
        .build();
    let worker = tasks.work()?;
    let operation_layer = orders::operations(backend.clone());
    let operations = operation_layer.operations();

    // What runs again if a durable operation begins again.
    let inner = Router::new()
        .route("/", get(page))
        .route("/report", post(orders::report))
        .route("/approve", post(orders::approve))
        .route("/order", post(orders::order))
        .layer(PromiseLayer::new().timeout(Duration::from_secs(10 * 60)))
        .with_state(Signals::new(backend));
    let layers = ServiceBuilder::new()
        // The span of the request, the parent of all other spans.
        .layer(TraceLayer::new_for_http())
        .layer(ServerTimingLayer::new(is_local))
        .layer(TaskLayer::new(tasks).trace(|_| telemetry::current()))
        .layer(operation_layer);
    let app = inner.clone().layer(layers);
    let runs = operations.clone();
    let runs = tokio::spawn(async move { runs.work::<_, Body, _>(inner).await });
    // Added outside of the layers, so that requests of the metrics collector are not counted.
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    let app = app.route("/metrics", get(async move || (text, metrics.render())));

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try it in a browser with developer tools, or");
    println!("  curl -i http://{address}/         # the header `Server-Timing`");
    println!(
        "  curl -X POST -i http://{address}/report              # an operation, which waits for a signal"
    );
    println!("  curl -X POST -d Ada http://{address}/approve         # the signal");
    println!(
        "  curl -X POST -i http://{address}/order               # a durable operation, suspended for two seconds"
    );
    println!("  curl http://{address}/metrics     # what Prometheus collects");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    serve(listener, app)
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    operations.drain(Duration::from_secs(1)).await;
    runs.await??;
    worker.drain(Duration::from_secs(1)).await;
    // Exports the remaining spans.
    spans.shutdown()?;
    Ok(())
}
