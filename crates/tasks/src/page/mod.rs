//! The page of tasks: a service that shows queues, tasks, dead letters, schedules and limits, and changes tasks.
//!
//! Every link is relative and consists of a query only, so that the service works at any path, behind any router and
//! behind a proxy that changes paths. There are no scripts, and nothing is inline.

mod assets;
mod body;
mod dead_letters;
mod form;
mod future;
mod limits;
mod link;
mod list;
mod markup;
mod overview;
mod query;
mod reply;
mod routes;
mod service;
mod settings;
mod snapshot;
mod source;
mod task;
mod times;
mod token;

pub use body::TasksPageBody;
pub use future::TasksPageFuture;
pub use service::TasksPage;
