//! Durable operations: a request survives the death of its process.

mod accept;
mod again;
mod endpoint;
mod held;
mod recollection;
mod request;
mod run;
mod settle;
mod takeover;
mod token;
mod wake;
mod worker;

pub use crate::memory::{Json, RememberedError, Settlement};
pub(super) use accept::answer;
pub(super) use again::{forget_from, resume, send_again};
pub(super) use endpoint::answer as answer_promise;
pub use run::{DurableRun, NotRemembered};
pub use settle::Settling;
pub(super) use settle::{Target, settle};
pub(super) use worker::work;
