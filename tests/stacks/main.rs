//! The layer in stacks of axum, hyper, tonic and other middleware.
#![allow(clippy::unwrap_used)]

mod axum;
mod bounds;
mod grpc;
mod http;
mod stacks;
