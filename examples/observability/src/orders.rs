//! Slow work: an operation that waits for a signal, a durable operation that sleeps, and a task with a schedule.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tower_promises::backend::Backend;
use tower_promises::operations::OperationLayer;
use tower_promises::signals::{SignalError, Signals};
use tower_promises::tasks::{InvalidSchedule, Schedule, Task, TaskContext, TaskFailure};
use tower_promises::{PromiseError, Promises};

/// Makes slow requests operations. `/order` also survives the death of its process.
pub(crate) fn operations(backend: Backend) -> OperationLayer {
    OperationLayer::new(backend)
        .wait(Duration::from_millis(200))
        .durable(|request| request.method == "POST" && request.uri.path() == "/order")
}

/// A report that is published when another request approves it.
pub(crate) async fn report(
    State(signals): State<Signals>,
    promises: Promises,
) -> Result<String, PromiseError> {
    let approval: String = promises.result_or_try_submit("approval", || {
        signals
            .wait("approval")
            .timeout(Duration::from_secs(5 * 60))
    })?;
    Ok(format!("the report, approved by {approval}"))
}

/// Approves all reports that wait.
pub(crate) async fn approve(
    State(signals): State<Signals>,
    name: String,
) -> Result<String, StatusCode> {
    let sent = signals.send("approval", &name).await;
    let reports = sent.map_err(|error| match error {
        SignalError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    })?;
    Ok(format!("approved {reports} reports"))
}

/// An order that can be cancelled for two seconds. Meanwhile nothing of it is in memory.
pub(crate) async fn order(promises: Promises) -> Result<String, PromiseError> {
    promises.sleep("cool off", Duration::from_secs(2))?;
    Ok("ordered".into())
}

/// Work that is due at the beginning of each minute.
#[derive(Serialize, Deserialize)]
pub(crate) struct CleanUp;

impl Task for CleanUp {
    const NAME: &'static str = "clean up";
    type Output = ();

    async fn run(self, _: TaskContext) -> Result<(), TaskFailure> {
        Ok(())
    }
}

/// The schedule of the clean-up.
pub(crate) fn schedule() -> Result<Schedule, InvalidSchedule> {
    Schedule::new("clean up", "office", "* * * * *", |_| CleanUp)
}
