use super::{Principal, RetryPolicy, TaskContext, TaskError, TaskFailure, TaskId, TaskLimit};
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::value::RawValue;
use std::any::type_name;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tower_promises_backend::kit::{json, panic};

/// A function that runs in the workers of a queue. The fields are its arguments, and [`run`](Self::run) is its body.
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
/// its arguments. It can be [sent again](super::TaskQueue::send_again) after the next deployment.
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// The name of the type, unique within its queues.
    const NAME: &'static str;

    /// The type of the output.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Returns the policy for retries of this type, by default [`RetryPolicy::new`]: only conflicts are retried.
    fn retry_policy() -> RetryPolicy {
        RetryPolicy::new()
    }

    /// Returns the limit of this task, by default none: how many tasks with the same key run at once, in all processes.
    ///
    /// The function is called when the task is submitted, with the principal that it will act for. A task that runs in
    /// place has no limit of its own.
    ///
    /// ```
    /// use tower_promises_tasks::{Principal, TaskLimit};
    ///
    /// struct Export {
    ///     tenant: u32,
    /// }
    ///
    /// # impl Export {
    /// fn limit(&self, _: Option<&Principal>) -> Option<TaskLimit> {
    ///     // Two exports of a tenant at once.
    ///     Some(TaskLimit::new(format!("tenant {}", self.tenant), 2))
    /// }
    /// # }
    /// # let _ = Export { tenant: 7 }.limit(None);
    /// ```
    fn limit(&self, principal: Option<&Principal>) -> Option<TaskLimit> {
        let _ = principal;
        None
    }

    /// Runs the task, on behalf of the [principal](TaskContext::principal) that submitted it.
    ///
    /// The function may run more than once, and two runs may overlap, see [the module](super). The future is dropped at
    /// an `await` when the task is cancelled or times out, and when its worker ends.
    ///
    /// # Errors
    ///
    /// The [failure](TaskFailure) and the [policy](Self::retry_policy) decide whether the task is retried. By default,
    /// a [conflict](TaskFailure::conflict) is retried, and any other error ends the task.
    fn run(
        self,
        context: TaskContext,
    ) -> impl Future<Output = Result<Self::Output, TaskFailure>> + Send;
}

/// Serialises the arguments. Fails if the type cannot read its own JSON, because no worker could.
pub(super) fn write_arguments<T: Task>(task: &T) -> serde_json::Result<Box<RawValue>> {
    let arguments = json::to_raw_value(task)?;
    let read: serde_json::Result<T> = read_arguments(&arguments);
    read.map_err(|error| {
        serde_json::Error::custom(format_args!("it cannot be read again: {error}"))
    })?;
    Ok(arguments)
}

/// Deserialises the arguments. A panic in `Deserialize` is reported as an error, because the task has not started.
pub(super) fn read_arguments<T: Task>(arguments: &RawValue) -> serde_json::Result<T> {
    let read = || serde_json::from_str(arguments.get());
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic::text(&*panic).unwrap_or_default();
        Err(serde_json::Error::custom(format_args!(
            "it panicked: {text}"
        )))
    })
}

/// Deserialises the output.
pub(super) fn read_output<T: Task>(id: &TaskId, output: &RawValue) -> Result<T::Output, TaskError> {
    serde_json::from_str(output.get()).map_err(|error| TaskError::WrongType {
        id: id.clone(),
        expected: type_name::<T::Output>(),
        error: Arc::new(error),
    })
}
