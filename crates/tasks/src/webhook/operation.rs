use super::task::Webhook;
use crate::TaskError;
use serde::Serialize;
use std::time::SystemTime;
use tower_promises_operations::Operation;

/// The data of a webhook on the end of an operation.
#[derive(Serialize)]
struct EndData<'a> {
    id: &'a str,
    status: String,
    /// The error code of an operation that has failed or was cancelled.
    error: Option<&'a str>,
    created: String,
    finished: Option<String>,
}

impl Webhook {
    /// Creates a webhook about an operation. Its data are the `id`, the `status`, the `error` code, and the times
    /// `created` and `finished`.
    ///
    /// The id is a secret that gives access to an operation without a principal: send it only to the client of the
    /// operation.
    ///
    /// ```
    /// use tower_promises_backend::Backend;
    /// use tower_promises_operations::OperationLayer;
    /// use tower_promises_tasks::{Tasks, Webhook, WebhookSender};
    ///
    /// fn operations(backend: Backend, tasks: &Tasks, sender: WebhookSender) -> OperationLayer {
    ///     let call = tasks.queue("webhooks").on_operation_end(|operation| {
    ///         let url = operation.callback()?;
    ///         Webhook::of_operation(url, "operation.ended", operation).ok()
    ///     });
    ///     OperationLayer::new(backend)
    ///         .callbacks(move |_, url| sender.allows(url))
    ///         .on_end(call)
    /// }
    /// # let _ = operations;
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskError::Serialize`] if the data cannot be serialised.
    pub fn of_operation(
        url: impl Into<String>,
        event: impl Into<String>,
        operation: &Operation,
    ) -> Result<Self, TaskError> {
        let text = |time: SystemTime| humantime::format_rfc3339_millis(time).to_string();
        let data = EndData {
            id: operation.id(),
            status: operation.status().to_string(),
            error: operation.error_code(),
            created: text(operation.created()),
            finished: operation.finished().map(text),
        };
        Self::new(url, event, &data)
    }
}
