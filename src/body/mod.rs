//! A request body that can be read again.
//!
//! [`ReplayBody`] wraps a body and remembers what is read from it, so that the same request can be
//! sent to a service more than once. [`PromiseLayer`] gives one to every pass; by itself it serves
//! `tower::retry`, which must clone a request before it knows whether it will need the clone, and
//! proxies that try a second upstream.
//!
//! # Example
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Full};
//! use tower_promises::body::ReplayBody;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let first = ReplayBody::new(Full::new(Bytes::from("hello")));
//! let second = first.replay();
//!
//! assert_eq!(first.collect().await?.to_bytes(), "hello");
//! assert_eq!(second.collect().await?.to_bytes(), "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Rules
//!
//! 1. Nothing is read ahead. A frame is taken from the original body when a reader asks for it, so
//!    back-pressure and `Expect: 100-continue` work as without the wrapper.
//! 2. A replay yields what earlier readers have read, then goes on with the rest of the original.
//!    Trailers and errors replay too. Neighbouring small frames may come back as one.
//! 3. Large frames are kept by reference count and not copied. Small ones are copied together, so
//!    that a body of many tiny frames costs about as much memory as it has bytes.
//! 4. At most a set number of bytes is kept, by default 2 MiB. What goes
//!    beyond it can go on in a [temporary file](#temporary-files), with a limit of its own. A body that
//!    outgrows the limits is handed through unharmed to its present reader; only replay ends:
//!    what was kept is freed, [`ReplayBody::is_replayable`] turns false and later readers get an
//!    error of the kind [`ReplayError::TooLarge`].
//!    A body whose size hint already exceeds the limits when the first frame is asked for is not kept at all.
//! 5. There is one reader at a time, the newest that has asked for a frame. An older one gets
//!    [`ReplayError::Superseded`]; it takes no frame away from the newer one. Every error ends the body for the
//!    reader that gets it: what follows is the end.
//! 6. [`size_hint`] and [`is_end_stream`] are exact wherever the original's are. A body that is empty
//!    from the start is dropped at once, and wrapping it allocates nothing.
//!
//! # Temporary files
//!
//! With the feature `spool`, `ReplayBody::with_spool` and `PromiseLayer::spool_dir` let a body that outgrows
//! memory go on in a file, by default up to 64 MiB, with the same rules. Besides:
//!
//! 1. From the first frame on that does not fit into memory as a whole, data goes to the file. Nothing is
//!    written, and no file made, before 64 KiB of it have come together. Until then, and while they are
//!    written, they are in memory; so such a body takes about the limit, 128 KiB, and one frame of the
//!    original. Trailers stay in memory; they may take 64 KiB beyond the limit.
//! 2. A frame is handed on at once. The next one is taken from the original when the file has the former.
//! 3. A replay reads 64 KiB at a time, at most one such chunk ahead.
//! 4. Files are made, written, read and closed on tokio's blocking threads, one operation at a time for
//!    each body, so no task is blocked. A body that comes to need its file must be read within a tokio
//!    runtime, and that runtime must last as long as the body.
//! 5. The file has no name: no other process finds it, and it is gone with the body, also when the process
//!    is killed.
//! 6. If it cannot be written (the directory is missing, the disk is full, there is no runtime), the present
//!    reader gets everything; only replay ends, with `ReplayError::SpoolFailed`. If it cannot be read, that
//!    is an error of the reader, and the next one tries again.
//!
//! Choose the directory well:
//!
//! - The system's temporary directory is often a `tmpfs`, which is memory. `/var/tmp` usually is not.
//! - A disk quota, or a small file system of its own, bounds what all requests together can take. The
//!   limit here is one for each body.
//! - A file without a name is still a copy on a disk. Its contents may be found there after it is gone, and
//!   an administrator can read it while it is open. Encrypt the disk if the bodies are secret.
//! - On a network file system, blocking threads wait for the network; they are shared with all else that
//!   uses `spawn_blocking`.
//!
//! # Errors
//!
//! A reader's error is a [`BoxError`](crate::BoxError) that holds a [`ReplayError`], whose source is the original
//! body's error, or that of the file. The original body's error prints as it does without the wrapper; to find its
//! type, look through the sources. There is one exception: where the original's error is, or is caused by, a
//! [`LengthLimitError`], every reader gets a [`LengthLimitError`], because servers such as axum
//! recognise it by its type and answer 413.
//!
//! # Cancel safety
//!
//! Dropping a reader loses nothing: what it has read can be replayed, what it has not is still there.
//! The original body is dropped with its last reader, or when it ends. So is the file with the last
//! reader; an operation that runs on it is not waited for.
//!
//! # Difference from collecting
//!
//! `BodyExt::collect` waits for the whole body before the service is called and always holds all of
//! it. `ReplayBody` hands the first byte on as soon as it arrives.
//!
//! [`PromiseLayer`]: crate::promise::PromiseLayer
//! [`size_hint`]: http_body::Body::size_hint
//! [`is_end_stream`]: http_body::Body::is_end_stream
//! [`LengthLimitError`]: http_body_util::LengthLimitError

mod detached;
#[cfg(feature = "spool")]
mod disk;
mod error;
mod kept;
mod replay;
#[cfg(feature = "spool")]
mod spool;
mod state;

pub use detached::RequestBody;
pub use error::ReplayError;
pub use replay::ReplayBody;
pub(crate) use replay::{DEFAULT_MAX_BYTES, Detach};
#[cfg(feature = "spool")]
pub(crate) use spool::DEFAULT_MAX_SPOOL_BYTES;
#[cfg(feature = "spool")]
pub use spool::Spool;
