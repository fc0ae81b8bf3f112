//! Tasks.

mod attempt;
mod builder;
mod cancel;
mod context;
mod core;
mod dead;
mod definition;
mod error;
mod failure;
mod follow;
mod handle;
mod hub;
mod id;
mod layer;
mod observe;
mod principal;
mod record;
mod records;
mod request;
mod scope;
mod service;
mod status;
mod submit;
mod trace;
mod worker;

pub use builder::{
    DEFAULT_BACKEND_TIMEOUT, DEFAULT_DEAD_LETTER_TIME_TO_LIVE, DEFAULT_LIFETIME,
    DEFAULT_MAX_ATTEMPTS, DEFAULT_MAX_TASK_BYTES, DEFAULT_POLL_INTERVAL, DEFAULT_PROGRESS_INTERVAL,
    DEFAULT_RESULT_TIME_TO_LIVE, DEFAULT_TASK_CONCURRENCY, DEFAULT_TASK_TIMEOUT,
    TaskServiceBuilder, TasksBuilder,
};
pub use context::{MAX_MESSAGE_BYTES, MissingState, TaskContext};
pub use dead::MAX_DEAD_LETTER_BYTES;
pub use definition::Task;
pub use error::TaskError;
pub use failure::TaskFailure;
pub use handle::{TaskWatch, Tasks};
pub use id::TaskId;
pub use layer::{TaskLayer, WithTasks, WithTasksFuture};
pub use principal::Principal;
pub use scope::is_task;
pub use service::TaskService;
pub use status::{TaskState, TaskStatus};
pub use submit::{Call, Submit};
pub use trace::TraceContext;
pub use worker::Worker;
