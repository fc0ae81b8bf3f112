//! The list of durable operations that are lost, in the store.

use crate::instance::Instance;
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::documents::Update;

/// The number of lost operations that are listed.
const MAX_LOST: usize = 256;

/// Lists an operation that is about to be lost. The oldest ones are left out.
pub(super) async fn add(instance: &Instance, id: &str) -> Result<(), BackendError> {
    let retention = instance.settings.retention;
    let add = |found: Option<Vec<String>>| {
        let mut lost = found.unwrap_or_default();
        lost.retain(|lost| lost != id);
        lost.push(id.to_owned());
        let surplus = lost.len().saturating_sub(MAX_LOST);
        lost.drain(..surplus);
        Update::Set(lost, retention, ())
    };
    let backend = &instance.records.backend;
    backend.change(&name(instance), add).await
}

/// Returns the ids of operations that may be lost, oldest first.
pub(crate) async fn lost(instance: &Instance) -> Result<Vec<String>, BackendError> {
    let found = instance.records.backend.read(&name(instance)).await?;
    Ok(found.unwrap_or_default())
}

fn name(instance: &Instance) -> String {
    format!("operation/lost/{}", instance.settings.durable.queue)
}
