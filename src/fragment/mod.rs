//! Middleware that sends a page before it is complete, and its slow parts after it.

mod body;
mod eligibility;
mod fragments;
mod future;
mod layer;
mod observe;
mod page;
mod render;
mod rendering;
mod service;
mod settings;
mod shell;

pub use crate::promise::fragment_error::FragmentError;
pub use body::FragmentBody;
pub use fragments::Fragment;
pub use future::FragmentFuture;
pub use layer::FragmentLayer;
pub use service::FragmentService;

/// The script for [`FragmentLayer::script`], as `text/javascript`.
///
/// It places fragments in browsers that do not know `<template for>`. In other browsers it does nothing. It needs no
/// global variable and no inline code, and may be cached like any other file of the application.
pub const SCRIPT: &str = include_str!("script.js");
