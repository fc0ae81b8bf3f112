//! Setup of spans, events and metrics.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use opentelemetry_stdout::SpanExporter;
use std::collections::HashMap;
use std::io::stderr;
use std::time::Duration;
use tower_promises::tasks::{TaskContext, TraceContext};
use tracing::{Span, info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

/// Includes DEBUG, the level of the spans of requests, passes and promises.
const FILTER: &str = "info,tower_http=debug,tower_promises=debug";

/// The upper bounds of the histogram buckets for durations, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// Sends spans to OpenTelemetry and a log to stderr. `RUST_LOG` filters the log.
///
/// The OpenTelemetry exporter writes to stdout. Replace it by the exporter of the crate `opentelemetry-otlp` to use a
/// collector; the other code stays the same.
pub(crate) fn trace() -> SdkTracerProvider {
    let soon = BatchConfigBuilder::default().with_scheduled_delay(Duration::from_millis(200));
    let batches = BatchSpanProcessor::builder(SpanExporter::default());
    let provider = SdkTracerProvider::builder()
        .with_span_processor(batches.with_batch_config(soon.build()).build())
        .with_resource(
            Resource::builder()
                .with_service_name("observability")
                .build(),
        )
        .build();

    // Two filters, so that the log level does not affect the exported spans.
    let exported = EnvFilter::new(FILTER);
    let logged = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("observability"));
    let log = fmt::layer()
        .with_writer(stderr)
        .with_span_events(FmtSpan::CLOSE);
    tracing_subscriber::registry()
        .with(spans.with_filter(exported))
        .with(log.with_filter(logged))
        .init();
    provider
}

/// Returns the trace context of the current span, for tasks that the request submits.
pub(crate) fn current() -> Option<TraceContext> {
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
    TraceContext::new(headers.get("traceparent")?)
}

/// Creates the span of a task, in the trace of the request that submitted it.
pub(crate) fn task_span(context: &TaskContext) -> Span {
    let span = info_span!(
        "task",
        otel.name = context.task(),
        attempt = context.attempt()
    );
    // A task that runs in place is already inside of the right span.
    if let (Some(trace), true) = (context.trace(), Span::current().is_none()) {
        let headers = HashMap::from([("traceparent".to_owned(), trace.parent().to_owned())]);
        let parent = TraceContextPropagator::new().extract(&headers);
        if let Err(error) = span.set_parent(parent) {
            warn!(%error, "the trace of a task ends here");
        }
    }
    span
}

/// Sets up metrics for Prometheus.
pub(crate) fn measure() -> Result<PrometheusHandle, BuildError> {
    let durations = Matcher::Suffix("_seconds".into());
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(durations, &BUCKETS)?
        .install_recorder()?;
    tower_promises::observe::metrics::describe();

    let recorder = metrics.clone();
    tokio::spawn(async move {
        // Recorded values take memory until they are moved into buckets.
        let mut interval = tokio::time::interval(Duration::from_secs(5));
        loop {
            interval.tick().await;
            recorder.run_upkeep();
        }
    });
    Ok(metrics)
}
