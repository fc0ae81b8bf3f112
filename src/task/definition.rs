use super::{TaskContext, TaskFailure};
use crate::{json, panic};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::value::RawValue;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// A function that runs elsewhere: its fields are the arguments, [`run`](Self::run) is the body.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tower_promises::task::{Task, TaskContext, TaskFailure};
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
/// It travels as JSON, and so does its output. JSON has no NaN and no infinities: in the arguments they are an error
/// where the task is submitted, in the output they are an error of the task. `Some(())` and `Some(None)` arrive as
/// `None`.
///
/// Old and new versions of a program share the queue while one replaces the other, so add fields with
/// `#[serde(default)]`, and give a type that has become another one a new name. A worker that cannot read the arguments
/// leaves the task to others, half a minute later. When its attempts are used up it is a dead letter, with its
/// arguments, and can be [sent again](super::TaskService::send_again) after the next deploy.
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// What the type is known by in its services.
    const NAME: &'static str;

    /// What it makes.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Does the work, as the [principal](TaskContext::principal) who has submitted it.
    ///
    /// It may run more than once, even twice at the same time, see [the module](super). It is dropped, at an `await`,
    /// when the task is cancelled or takes too long and when its worker ends.
    ///
    /// # Errors
    ///
    /// A [conflict](TaskFailure::conflict) makes it be tried again, any other error ends it.
    fn run(
        self,
        context: TaskContext,
    ) -> impl Future<Output = Result<Self::Output, TaskFailure>> + Send;
}

/// A [`Task::run`] of any type. It may panic.
pub(super) type Run = fn(Box<RawValue>, TaskContext) -> BoxFuture<'static, Ran>;

/// How a run has ended, if it was not dropped: with the output as JSON, or with the reason why there is none.
pub(super) type Ran = Result<Box<RawValue>, RunError>;

#[derive(Debug)]
pub(super) enum RunError {
    /// The arguments are not those of the type, so it has not begun.
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

/// Reads arguments. A panic of `Deserialize` is an error like others: the task has not begun.
pub(super) fn read<T: Task>(arguments: &RawValue) -> serde_json::Result<T> {
    let read = || serde_json::from_str(arguments.get());
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic::text(&*panic).unwrap_or_default();
        Err(serde_json::Error::custom(format_args!(
            "it panicked: {text}"
        )))
    })
}

/// A panic ends the task, not the worker.
pub(super) async fn catch(work: impl Future<Output = Ran> + Send) -> Ran {
    let mut work = pin!(work);
    let polled = std::future::poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(poll) => poll,
            // It is not polled again.
            Err(panic) => {
                let text = panic::text(&*panic).unwrap_or_default();
                Poll::Ready(Err(RunError::Panicked(text.to_owned())))
            }
        }
    });
    polled.await
}
