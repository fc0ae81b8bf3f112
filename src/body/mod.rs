//! A request body that can be read again.
//!
//! [`ReplayBody`] wraps a body and stores the frames that are read from it, so that the same request can be sent to a
//! service more than once. [`PromiseLayer`] passes one to every pass. Other uses are `tower::retry`, which must clone a
//! request before the first attempt, and proxies that retry with a second upstream.
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
//! 1. Nothing is read ahead. A frame is taken from the original body when a reader polls for it, so backpressure and
//!    `Expect: 100-continue` work as without the wrapper.
//! 2. A replay yields the frames that earlier readers have read, then continues with the original body. Trailers and
//!    errors are replayed too. Small neighbouring frames may be merged.
//! 3. Large frames are kept by reference count and not copied. Small frames are copied into shared buffers, so that a
//!    body of many tiny frames takes about as much memory as it has bytes.
//! 4. The number of kept bytes is limited, by default to 2 MiB. Data beyond the limit can go to a
//!    [temporary file](#temporary-files) with its own limit. If a body exceeds the limits, its present reader still
//!    gets the whole body. Only replay ends: the kept bytes are freed, [`ReplayBody::is_replayable`] returns `false`,
//!    and later readers get [`ReplayError::TooLarge`]. If the size hint already exceeds the limits at the first frame,
//!    only the first 64 KiB are kept, so that a reader can look at the beginning.
//! 5. A body has one reader at a time: the newest reader that has polled for a frame. Older readers get
//!    [`ReplayError::Superseded`] and take no frame from the newer reader. Every error ends the body for the reader
//!    that gets it: the next poll returns the end.
//! 6. [`size_hint`] and [`is_end_stream`] are exact where those of the original body are exact. A body that is empty
//!    from the start is dropped at once, and wrapping it allocates nothing.
//!
//! # Temporary files
//!
//! With the feature `spool`, `ReplayBody::with_spool` and `PromiseLayer::spool_dir` store the part of a body that
//! exceeds the memory limit in a file, by default up to 64 MiB. The rules above apply, and also:
//!
//! 1. Data goes to the file starting with the first frame that does not fit into memory as a whole. The file is
//!    created when the first 64 KiB of such data have been collected, and written in steps of at least 64 KiB. Data is
//!    in memory until it has been written, so such a body takes about the limit, 128 KiB, and one frame of the
//!    original body. Trailers stay in memory; they may take 64 KiB beyond the limit.
//! 2. A reader gets a frame at once. The next frame is taken from the original body after the former one is in the
//!    file.
//! 3. A replay reads chunks of 64 KiB, at most one chunk ahead.
//! 4. Files are created, written, read and closed on tokio's blocking threads, one operation at a time for each body,
//!    so no task is blocked. A body that needs its file must be read within a tokio runtime, and that runtime must
//!    last as long as the body.
//! 5. The file has no name. No other process can open it by name, and it is deleted with the body, also when the
//!    process is killed.
//! 6. If the file cannot be written (the directory is missing, the disk is full, there is no runtime), the present
//!    reader gets the whole body. Only replay ends, with `ReplayError::SpoolFailed`. If the file cannot be read, the
//!    reader gets an error, and the next reader tries again.
//!
//! How to choose the directory:
//!
//! - The system's temporary directory is often a `tmpfs`, which is memory. `/var/tmp` usually is not.
//! - A disk quota, or a separate small file system, limits the total size of all files. The limit here applies to each
//!   body.
//! - A file without a name is still a copy on a disk. Its contents may remain on the disk after it is deleted, and an
//!   administrator can read it while it is open. Encrypt the disk if the bodies are secret.
//! - On a network file system, blocking threads wait for the network. All other users of `spawn_blocking` share these
//!   threads.
//!
//! # Errors
//!
//! The error of a reader is a [`BoxError`](crate::BoxError) that holds a [`ReplayError`]. If the original body or the
//! file has failed, the source is the error of the body or of the file. An error of the original body has the same text
//! as without the wrapper; to find its type, search the sources. There is one exception: if the original error is a
//! [`LengthLimitError`], or is caused by one, every reader gets a [`LengthLimitError`], because servers such as axum
//! recognise it by its type and respond with 413.
//!
//! # Cancel safety
//!
//! Dropping a reader loses nothing: frames that it has read can be replayed, and all other frames are still available.
//! The original body is dropped with its last reader, or when it ends. The file is closed with the last reader, without
//! waiting for an operation that is running on it.
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

mod buffer;
mod detached;
#[cfg(feature = "spool")]
mod disk;
mod error;
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
