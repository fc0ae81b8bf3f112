//! placeholder
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod body;
pub mod promise;

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "util")]
mod builder;
mod problem;
mod sync;

#[cfg(feature = "util")]
pub use builder::ServiceBuilderExt;
pub use promise::{
    Key, OnTimeout, OrPending, PromiseError, PromiseKey, PromiseLayer, PromiseResults, Promises,
    Rejection, Start, SubmitError,
};

/// A boxed error, as in tower.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
