//! The call of a task on the end of an operation.

use super::{Task, TaskId, TaskQueue};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::pin::Pin;
use tower_promises_backend::BoxError;
use tower_promises_operations::Operation;

/// The future of a submission at the end of an operation.
type Submitting = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

impl TaskQueue {
    /// Returns a function for [`OperationLayer::on_end`](tower_promises_operations::OperationLayer::on_end), which
    /// submits a task to this queue when an operation has ended.
    ///
    /// `task` creates the task, or returns `None` if nothing is to be done. It may be called more than once for an
    /// operation; while the record of the task is kept, the task is submitted once. It has the principal of this handle.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tower_promises_tasks::{Task, TaskContext, TaskFailure};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Notify { status: String }
    /// # impl Task for Notify {
    /// #     const NAME: &'static str = "notify";
    /// #     type Output = ();
    /// #     async fn run(self, _: TaskContext) -> Result<(), TaskFailure> { Ok(()) }
    /// # }
    /// use tower_promises_backend::Backend;
    /// use tower_promises_operations::OperationLayer;
    /// use tower_promises_tasks::{TaskQueueOptions, Tasks};
    ///
    /// let backend = Backend::memory();
    /// let tasks = Tasks::builder(backend.clone())
    ///     .queue(TaskQueueOptions::new("notices").task::<Notify>())
    ///     .build();
    /// let notify = tasks.queue("notices").on_operation_end(|operation| {
    ///     Some(Notify { status: operation.status().to_string() })
    /// });
    /// let layer = OperationLayer::new(backend).on_end(notify);
    /// # let _ = layer;
    /// ```
    pub fn on_operation_end<T: Task>(
        &self,
        task: impl Fn(&Operation) -> Option<T> + Send + Sync + 'static,
    ) -> impl Fn(Operation) -> Submitting + Send + Sync + 'static {
        let queue = self.clone();
        move |operation| {
            // The id of an operation is a secret, and the id of a task is logged.
            let submit = task(&operation).map(|task| queue.submit(task).with_id(id(&operation)));
            Box::pin(async move {
                if let Some(submit) = submit {
                    submit.await?;
                }
                Ok(())
            })
        }
    }
}

/// A durable operation that is sent again ends again, so the time of the end is part of the id.
fn id(operation: &Operation) -> TaskId {
    let mut id = "operation/".to_owned();
    let end = format!("{} {:?}", operation.id(), operation.finished());
    for byte in Sha256::digest(end) {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    TaskId::from(id)
}
