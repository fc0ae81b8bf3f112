//! Guides, each from a problem to production.
//!
//! | problem | guide |
//! |---|---|
//! | a page of components, and a handler that has to know what each of them needs | [Server-rendered pages](pages) |
//! | a page that waits for its slowest part | [Streaming](crate::fragment::guide) |
//! | a list of fifty rows, and fifty queries | [N+1 queries](lists) |
//! | a file that is larger than memory | [Uploads](uploads) |
//! | a report that takes 40 seconds | [Slow requests](crate::operations::guide) |
//! | an order that must not be charged twice if the process dies | [Requests that survive](crate::operations::durable::guide) |
//! | work that continues after the response, or on another machine | [Background work](crate::tasks::guide) |
//! | a request that was slow | [Observability](crate::observe::guide) |
//! | a handler that a unit test should cover | [Testing](testing) |
//! | a second process, or a second machine | [From one machine to many](machines) |
//! | all of it in one program | [A whole application](application) |
//! | a handler that uses `join!` today, or should again | [From `join!` to promises and back](join) |
//!
//! The [crate documentation](crate) has an example, and a table that says which method suits which work. [`promise`]
//! has the rules, the pitfalls and the order of middleware.
//!
//! The code of all guides is compiled and tested.
//!
//! [`promise`]: crate::promise

#[doc = include_str!("application.md")]
pub mod application {}
#[doc = include_str!("join.md")]
pub mod join {}
#[doc = include_str!("lists.md")]
pub mod lists {}
#[doc = include_str!("machines.md")]
pub mod machines {}
#[doc = include_str!("pages.md")]
pub mod pages {}
#[doc = include_str!("testing.md")]
pub mod testing {}
#[doc = include_str!("uploads.md")]
pub mod uploads {}
