//! A worker runs a named function, and runs it again after a conflict.

use super::Result;
use crate::stage::{Stage, Visit};
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::tasks::{RetryPolicy, TaskQueueOptions, TraceContext, Worker};
use tower_promises::tasks::{Task, TaskContext, TaskFailure, TaskLayer, Tasks};
use tower_promises::{BoxError, PromiseLayer, Promises};
use tracing::{Span, info, info_span};

// tour: begin
#[derive(Serialize, Deserialize)]
struct Invoice {
    order: u32,
}

impl Task for Invoice {
    const NAME: &'static str = "invoice";
    type Output = String;

    fn retry_policy() -> RetryPolicy {
        RetryPolicy::new().backoff(Duration::from_secs(1), Duration::from_secs(8))
    }

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        let number = write_into_book(context.attempt()).await;
        let number = number.map_err(TaskFailure::conflict)?;
        Ok(format!("Invoice {number} for order {}", self.order))
    }
}

async fn invoice(promises: Promises, tasks: Tasks) -> Result<Html<String>> {
    let office = tasks.queue("office");
    let call = || office.call(Invoice { order: 7 });
    let invoice = promises.result_or_try_submit("invoice", call)?;
    Ok(Html(format!("<h1>{invoice}</h1>")))
}
// tour: end

/// Stands for a transaction. Another clerk has the book at the first attempt.
async fn write_into_book(attempt: u32) -> Result<u32, &'static str> {
    sleep(Duration::from_millis(120)).await;
    if attempt == 1 {
        info!("conflict: another clerk has written into the book");
        return Err("another clerk has written into the book");
    }
    info!("written into the book");
    Ok(2026)
}

/// The number of the visit is the trace that the task continues.
fn trace(visit: Visit) -> Option<TraceContext> {
    let Visit(number) = visit;
    TraceContext::new(&format!("00-{number:032x}-{number:016x}-01"))
}

fn span(context: &TaskContext) -> Span {
    let parent = context.trace().and_then(|trace| trace.parent().get(3..35));
    let visit = parent.and_then(|trace| u64::from_str_radix(trace, 16).ok());
    info_span!("attempt", visit, attempt = context.attempt())
}

/// Also returns the worker, which ends when it is dropped.
pub(super) fn router(stage: &Stage) -> Result<(Router, Worker), BoxError> {
    let office = TaskQueueOptions::new("office").task::<Invoice>();
    let tasks = Tasks::builder(Backend::memory())
        .queue(office.concurrency(4))
        .make_span_with(span)
        .lifetime(Duration::from_secs(60))
        .retention(Duration::from_secs(60))
        .build();
    let worker = tasks.work()?;
    let layer = TaskLayer::new(tasks).trace(|request| trace(*request.extensions.get()?));
    let routes = Router::new().route("/task", get(invoice));
    let routes = routes.layer(PromiseLayer::new()).layer(layer);
    Ok((stage.around(routes), worker))
}
