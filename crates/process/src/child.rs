use super::job::{Call, Reply, answer};
use super::{ProcessError, ProcessJob};
use procspawn::{JoinHandle, SpawnError};
use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::kit::{json, panic};

/// The interval at which a pool checks whether the future of a job was dropped.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Starts a process for a job. Blocks until the process has connected, possibly forever.
pub(super) fn start<J: ProcessJob>(
    job: &J,
    max_bytes: usize,
) -> Result<JoinHandle<Reply>, ProcessError> {
    let call = call(job, max_bytes)?;
    // procspawn panics in a program that has not called `init`.
    let spawn = AssertUnwindSafe(|| {
        procspawn::Builder::new()
            .stdin(Stdio::null())
            .spawn(call, answer::<J>)
    });
    catch_unwind(spawn).map_err(|panic| {
        let text = match panic::text(&*panic).unwrap_or_default() {
            // The error names the function of this crate, because procspawn is not part of its public API.
            "procspawn was not initialized" => {
                "`main` has not called `tower_promises_process::init`"
            }
            text => text,
        };
        ProcessError::StartFailed {
            job: type_name::<J>(),
            error: Arc::from(tower_promises_backend::BoxError::from(text)),
        }
    })
}

fn call<J: ProcessJob>(job: &J, max_bytes: usize) -> Result<Call, ProcessError> {
    let call = json::to_string(job).map_err(|error| ProcessError::Serialize {
        job: type_name::<J>(),
        type_name: type_name::<J>(),
        error: Arc::new(error),
    })?;
    if call.len() > max_bytes {
        return Err(ProcessError::TooLarge {
            job: type_name::<J>(),
            size: call.len(),
            limit: max_bytes,
        });
    }
    Ok((call, max_bytes, std::process::id()))
}

/// Waits for the output and blocks the thread. Returns `None` once `is_unwanted` returns `true`. The process has ended
/// when this function returns.
pub(super) fn finish<J: ProcessJob>(
    mut process: JoinHandle<Reply>,
    max_bytes: usize,
    is_unwanted: impl Fn() -> bool,
) -> Option<Result<J::Output, ProcessError>> {
    // The handle of a process that could not start has no process id.
    let has_started = process.pid().is_some();
    loop {
        if is_unwanted() {
            // Dropping the handle kills the process and waits for its end.
            return None;
        }
        match process.join_timeout(POLL_INTERVAL) {
            Ok(reply) => return Some(output::<J>(reply, max_bytes)),
            Err(error) if error.is_timeout() => {}
            Err(error) => return Some(Err(failure::<J>(error, has_started))),
        }
    }
}

fn output<J: ProcessJob>(reply: Reply, max_bytes: usize) -> Result<J::Output, ProcessError> {
    let refused = |name, error| ProcessError::Serialize {
        job: type_name::<J>(),
        type_name: name,
        error,
    };
    let text = |text: String| Arc::from(tower_promises_backend::BoxError::from(text));
    match reply {
        Reply::Output(output) => serde_json::from_str(&output)
            .map_err(|error| refused(type_name::<J::Output>(), Arc::new(error))),
        Reply::WrongJob(error) => Err(refused(type_name::<J>(), text(error))),
        Reply::WrongOutput(error) => Err(refused(type_name::<J::Output>(), text(error))),
        Reply::TooLarge(size) => Err(ProcessError::TooLarge {
            job: type_name::<J>(),
            size,
            limit: max_bytes,
        }),
    }
}

fn failure<J: ProcessJob>(error: SpawnError, has_started: bool) -> ProcessError {
    let job = type_name::<J>();
    if let Some(panic) = error.panic_info() {
        let mut message = panic.message().to_owned();
        if let Some(place) = panic.location() {
            message.push_str(&format!(" at {}:{}", place.file(), place.line()));
        }
        let message = message.into();
        return ProcessError::Panicked { job, message };
    }
    if has_started {
        return ProcessError::Died { job };
    }
    let error = Arc::new(error);
    ProcessError::StartFailed { job, error }
}
