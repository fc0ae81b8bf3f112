use super::{TaskContext, TaskFailure};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::value::RawValue;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use tower_promises_backend::kit::{json, panic};

/// A function that runs on a task service. The fields are its arguments, and [`run`](Self::run) is its body.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tower_promises_tasks::{Task, TaskContext, TaskFailure};
///
/// #[derive(Serialize, Deserialize)]
/// struct Square {
///     number: u64,
/// }
///
/// impl Task for Square {
///     const NAME: &'static str = "square";
///     type Output = u64;
///
///     async fn run(self, _: TaskContext) -> Result<u64, TaskFailure> {
///         let square = self.number.checked_mul(self.number);
///         Ok(square.ok_or("the number is too large")?)
///     }
/// }
/// ```
///
/// Arguments and output are sent as JSON, which has neither NaN nor infinities. In arguments they are an error of the
/// submission; in the output they fail the task. `Some(())` and `Some(None)` arrive as `None`.
///
/// During a roll-out, old and new versions of a program share the queue. So mark new fields with `#[serde(default)]`,
/// and give a type that changes incompatibly a new name. A worker that cannot read the arguments leaves the task to
/// other workers and retries after half a minute. When its attempts are used up, the task is a dead letter that keeps
/// its arguments. It can be [sent again](super::TaskService::send_again) after the next deployment.
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// The name of the type, unique within its services.
    const NAME: &'static str;

    /// The type of the output.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Runs the task, on behalf of the [principal](TaskContext::principal) that submitted it.
    ///
    /// The function may run more than once, and two runs may overlap, see [the module](super). The future is dropped at
    /// an `await` when the task is cancelled or times out, and when its worker ends.
    ///
    /// # Errors
    ///
    /// A [conflict](TaskFailure::conflict) is retried. Any other error ends the task.
    fn run(
        self,
        context: TaskContext,
    ) -> impl Future<Output = Result<Self::Output, TaskFailure>> + Send;
}

/// A type-erased [`Task::run`]. It may panic.
pub(super) type Run = fn(Box<RawValue>, TaskContext) -> BoxFuture<'static, Ran>;

/// The outcome of a run that was not dropped: the output as JSON, or the reason why there is none.
pub(super) type Ran = Result<Box<RawValue>, RunError>;

#[derive(Debug)]
pub(super) enum RunError {
    /// The arguments do not match the type. The task has not started.
    Unreadable(serde_json::Error),
    Failed(TaskFailure),
    Panicked(String),
}

pub(super) fn run<T: Task>(
    arguments: Box<RawValue>,
    context: TaskContext,
) -> BoxFuture<'static, Ran> {
    Box::pin(async move {
        let task: T = read(&arguments).map_err(RunError::Unreadable)?;
        let output = task.run(context).await.map_err(RunError::Failed)?;
        json::to_raw_value(&output).map_err(|error| RunError::Failed(error.into()))
    })
}

/// Deserialises the arguments. A panic in `Deserialize` is reported as an error, because the task has not started.
pub(super) fn read<T: Task>(arguments: &RawValue) -> serde_json::Result<T> {
    let read = || serde_json::from_str(arguments.get());
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic::text(&*panic).unwrap_or_default();
        Err(serde_json::Error::custom(format_args!(
            "it panicked: {text}"
        )))
    })
}

/// Runs a task and turns a panic into an error, so that the worker survives.
pub(super) async fn catch(work: impl Future<Output = Ran> + Send) -> Ran {
    let mut work = pin!(work);
    let polled = std::future::poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(poll) => poll,
            // The future is not polled again after a panic.
            Err(panic) => {
                let text = panic::text(&*panic).unwrap_or_default();
                Poll::Ready(Err(RunError::Panicked(text.to_owned())))
            }
        }
    });
    polled.await
}
