use super::{DefaultResponseForRejection, Rejection, registry};
#[cfg(doc)]
use super::{PromiseLayer, PromiseService};
#[cfg(feature = "blocking")]
use crate::blocking::BlockingPool;
use crate::body::{DEFAULT_MAX_BYTES, ReplayBody, ReplayError};
#[cfg(feature = "spool")]
use crate::body::{DEFAULT_MAX_SPOOL_BYTES, Spool};
use http::Extensions;
use http_body::Body;
use std::any::type_name;
use std::fmt;
#[cfg(feature = "fragments")]
use std::panic::AssertUnwindSafe;
#[cfg(feature = "spool")]
use std::path::Path;
#[cfg(feature = "spool")]
use std::sync::Arc;
use std::time::Duration;

/// The settings of a [`PromiseLayer`].
#[derive(Clone)]
pub(super) struct Settings<H> {
    pub(super) max_passes: usize,
    pub(super) max_promises: usize,
    pub(super) max_body_bytes: usize,
    #[cfg(feature = "spool")]
    pub(super) spool_dir: Option<Arc<Path>>,
    #[cfg(feature = "spool")]
    pub(super) max_spool_bytes: u64,
    pub(super) start: Start,
    pub(super) promise_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) on_timeout: OnTimeout,
    #[cfg(feature = "server-timing")]
    pub(super) timings: bool,
    #[cfg(feature = "blocking")]
    pub(super) pool: BlockingPool,
    pub(super) on_rejection: H,
}

/// When a submitted promise starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// When the pass that submitted it ends. A promise that is cancelled before then never starts.
    #[default]
    PassEnd,
    /// At once, while the pass is running. Useful for handlers that themselves await something.
    Eager,
}

/// What happens when a request takes longer than [`PromiseLayer::timeout`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnTimeout {
    /// The request is rejected.
    #[default]
    Reject,
    /// The handler runs once more, so that the application renders its own page. Every promise that has not settled
    /// reads as [`TimedOut`](super::PromiseError::TimedOut), including promises that this pass submits.
    ///
    /// The final pass may exceed [`PromiseLayer::max_passes`] by one. It gets the same timeout again; if it exceeds
    /// that, the request is rejected. A request that has submitted no promise, or whose body cannot be replayed, is
    /// rejected without a final pass.
    FinalPass,
}

impl Default for Settings<DefaultResponseForRejection> {
    fn default() -> Self {
        Self {
            max_passes: 16,
            max_promises: 1024,
            max_body_bytes: DEFAULT_MAX_BYTES,
            #[cfg(feature = "spool")]
            spool_dir: None,
            #[cfg(feature = "spool")]
            max_spool_bytes: DEFAULT_MAX_SPOOL_BYTES,
            start: Start::default(),
            promise_timeout: None,
            timeout: None,
            on_timeout: OnTimeout::default(),
            #[cfg(feature = "server-timing")]
            timings: false,
            #[cfg(feature = "blocking")]
            pool: BlockingPool::new(),
            on_rejection: DefaultResponseForRejection,
        }
    }
}

impl<H> Settings<H> {
    pub(super) fn with_on_rejection<T>(self, on_rejection: T) -> Settings<T> {
        Settings {
            max_passes: self.max_passes,
            max_promises: self.max_promises,
            max_body_bytes: self.max_body_bytes,
            #[cfg(feature = "spool")]
            spool_dir: self.spool_dir,
            #[cfg(feature = "spool")]
            max_spool_bytes: self.max_spool_bytes,
            start: self.start,
            promise_timeout: self.promise_timeout,
            timeout: self.timeout,
            on_timeout: self.on_timeout,
            #[cfg(feature = "server-timing")]
            timings: self.timings,
            #[cfg(feature = "blocking")]
            pool: self.pool,
            on_rejection,
        }
    }

    /// Whether no pass can follow the pass with this number. A final pass may follow any pass.
    pub(super) fn is_last_pass(&self, pass: usize) -> bool {
        let has_final_pass = self.timeout.is_some() && self.on_timeout == OnTimeout::FinalPass;
        pass >= self.max_passes && !has_final_pass
    }

    /// Whether the timings of a request with these extensions are wanted.
    pub(super) fn wants_timings(&self, extensions: &Extensions) -> bool {
        #[cfg(feature = "server-timing")]
        return self.timings || extensions.get::<super::TimingsWanted>().is_some();
        #[cfg(not(feature = "server-timing"))]
        {
            let _ = extensions;
            false
        }
    }

    /// The settings that the registry of a request needs.
    pub(super) fn registry(&self) -> registry::Settings {
        registry::Settings {
            start: self.start,
            max_promises: self.max_promises,
            #[cfg(feature = "blocking")]
            pool: self.pool.clone(),
            #[cfg(feature = "fragments")]
            fragments: AssertUnwindSafe(None),
            #[cfg(feature = "fragments")]
            may_stream: false,
            #[cfg(feature = "operations")]
            promise_timeout: self.promise_timeout,
        }
    }

    pub(super) fn wrap_body<B: Body>(&self, body: B) -> ReplayBody<B> {
        #[cfg(feature = "spool")]
        if let Some(directory) = &self.spool_dir {
            let spool = Spool {
                directory: Arc::clone(directory),
                max_bytes: self.max_spool_bytes,
            };
            return ReplayBody::with_spool(body, self.max_body_bytes, spool);
        }
        ReplayBody::with_max_bytes(body, self.max_body_bytes)
    }

    /// The rejection of a request whose body cannot be replayed.
    pub(super) fn rejection_of_body(&self, error: &ReplayError) -> Rejection {
        match error {
            #[cfg(feature = "spool")]
            ReplayError::SpoolFailed { directory, error } => Rejection::SpoolFailed {
                directory: Arc::clone(directory),
                error: Arc::clone(error),
            },
            ReplayError::TooLarge { limit } => Rejection::BodyTooLarge { limit: *limit },
            _ => Rejection::BodyTooLarge {
                limit: self.max_body_bytes,
            },
        }
    }

    pub(super) fn fmt_as(
        &self,
        name: &str,
        inner: Option<&dyn fmt::Debug>,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let mut debug = f.debug_struct(name);
        if let Some(inner) = inner {
            debug.field("inner", inner);
        }
        debug
            .field("max_passes", &self.max_passes)
            .field("max_promises", &self.max_promises)
            .field("max_body_bytes", &self.max_body_bytes);
        #[cfg(feature = "spool")]
        debug
            .field("spool_dir", &self.spool_dir)
            .field("max_spool_bytes", &self.max_spool_bytes);
        debug
            .field("start", &self.start)
            .field("promise_timeout", &self.promise_timeout)
            .field("timeout", &self.timeout)
            .field("on_timeout", &self.on_timeout);
        #[cfg(feature = "server-timing")]
        debug.field("timings", &self.timings);
        #[cfg(feature = "blocking")]
        debug.field("blocking", &self.pool);
        debug
            .field("on_rejection", &format_args!("{}", type_name::<H>()))
            .finish()
    }
}
