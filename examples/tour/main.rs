//! A tour of this library: one page that shows each capability as a small program that runs, its code, and what the
//! server did.
//!
//! Start it with `cargo run --example tour`. It needs no database and no other server.

mod demos;
mod excerpt;
mod home;
mod recorder;
mod stage;

use axum::extract::DefaultBodyLimit;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_SECURITY_POLICY;
use recorder::Recorder;
use stage::Stage;
use std::io::stderr;
use std::time::Duration;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_promises::BoxError;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Applies to all pages. Those of operations forbid frames by themselves; the tour shows them in its own frames.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

const MAX_REQUESTS: usize = 128;

/// The size of the forms.
const MAX_BODY_BYTES: usize = 4096;

/// Sends spans to the recorder, and warnings to the terminal.
fn observe(recorder: &Recorder) {
    // The spans of passes and promises have the level DEBUG.
    let spans = Targets::new()
        .with_target("tower_promises", Level::DEBUG)
        .with_target("tour", Level::INFO);
    let log = tracing_subscriber::fmt::layer().with_writer(stderr);
    tracing_subscriber::registry()
        .with(recorder.clone().with_filter(spans))
        .with(log.with_filter(LevelFilter::WARN))
        .init();
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let recorder = Recorder::default();
    observe(&recorder);
    let (demos, worker) = demos::router(&Stage::new(recorder)?)?;
    let policy = HeaderValue::from_static(POLICY);
    let app = home::router()?.merge(demos).layer(
        ServiceBuilder::new()
            .layer(GlobalConcurrencyLimitLayer::new(MAX_REQUESTS))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(SetResponseHeaderLayer::overriding(
                CONTENT_SECURITY_POLICY,
                policy,
            )),
    );

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, open it in a browser");
    tokio::select! {
        served = axum::serve(listener, app) => served?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    worker.drain(Duration::from_secs(1)).await;
    Ok(())
}
