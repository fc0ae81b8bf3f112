//! A worker: runs tasks until its parent ends it.

use crate::jobs::{Worker, tasks};
use crate::{Member, parent_gone};
use std::sync::Arc;
use std::time::Duration;
use tower_promises::BoxError;
use tower_promises::backend::Backend;

pub(crate) async fn run(name: Arc<str>, backend: Backend) -> Result<(), BoxError> {
    let worker = Worker::new(name.clone());
    let tasks = tasks(backend.clone(), worker.clone())?;
    let work = tasks.work()?;
    let present = Member::be_present(name, backend, move || worker.doing());
    tokio::select! {
        () = present => {}
        () = parent_gone() => {}
    }
    // Another worker takes over tasks that take longer.
    work.drain(Duration::from_secs(2)).await;
    Ok(())
}
