use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, unconstrained};

/// The size of a write or a read in bytes. With a smaller size, changing threads costs more than the work.
pub(super) const CHUNK: usize = 64 * 1024;

/// The temporary file of one body. Every operation on the file runs on a blocking thread, one at a time.
#[derive(Default)]
pub(super) enum Disk {
    /// There is no file yet, or the file was lost.
    #[default]
    Nothing,
    Idle(Temporary),
    Busy(Job),
}

/// A temporary file without a name.
pub(super) struct Temporary {
    /// `None` after the file was moved into an operation.
    file: Option<File>,
    runtime: Handle,
}

/// An operation that is running, or waiting for a thread.
pub(super) struct Job {
    operation: Operation,
    handle: JoinHandle<Outcome>,
}

#[derive(Clone, Copy)]
enum Operation {
    Write,
    Read { at: u64 },
}

struct Outcome {
    file: Option<Temporary>,
    /// The data of a read. Empty for a write.
    result: io::Result<Bytes>,
}

/// The result of a finished operation.
pub(super) enum Finished {
    Write(io::Result<()>),
    Read { at: u64, result: io::Result<Bytes> },
}

impl Disk {
    /// Starts to write `data` at the offset `at`, to a new file in `directory` if there is none. No other operation may
    /// be running.
    ///
    /// # Errors
    ///
    /// If there is no file and the caller is not in a tokio runtime.
    pub(super) fn start_write(
        &mut self,
        directory: &Arc<Path>,
        at: u64,
        data: Vec<Bytes>,
    ) -> io::Result<()> {
        let (file, runtime) = match mem::take(self) {
            Self::Idle(mut temporary) => (temporary.file.take(), temporary.runtime.clone()),
            Self::Nothing | Self::Busy(_) => {
                (None, Handle::try_current().map_err(io::Error::other)?)
            }
        };
        let directory = Arc::clone(directory);
        self.start(&runtime, Operation::Write, move || {
            let mut file = match file {
                Some(file) => file,
                None => match tempfile::tempfile_in(directory) {
                    Ok(file) => file,
                    Err(error) => return (None, Err(error)),
                },
            };
            let result = write(&mut file, at, &data);
            (Some(file), result.map(|()| Bytes::new()))
        });
        Ok(())
    }

    /// Starts to read `len` bytes at the offset `at`. No other operation may be running.
    ///
    /// # Errors
    ///
    /// If the file was lost, because the thread of an earlier operation ended without returning it.
    pub(super) fn start_read(&mut self, at: u64, len: usize) -> io::Result<()> {
        let Self::Idle(mut temporary) = mem::take(self) else {
            return Err(io::Error::other("the temporary file was lost"));
        };
        let file = temporary.file.take();
        self.start(&temporary.runtime, Operation::Read { at }, move || {
            let Some(mut file) = file else {
                return (None, Err(io::ErrorKind::NotFound.into()));
            };
            let result = read(&mut file, at, len);
            (Some(file), result)
        });
        Ok(())
    }

    /// Runs `work` on a blocking thread. Only the plain file may move into `work`, not a [`Temporary`]: a runtime that
    /// shuts down drops closures under a lock, and the `Drop` of `Temporary` would take that lock again.
    fn start(
        &mut self,
        runtime: &Handle,
        operation: Operation,
        work: impl FnOnce() -> (Option<File>, io::Result<Bytes>) + Send + 'static,
    ) {
        let owner = runtime.clone();
        let handle = runtime.spawn_blocking(move || {
            let (file, result) = work();
            let file = file.map(|file| Temporary {
                file: Some(file),
                runtime: owner,
            });
            Outcome { file, result }
        });
        *self = Self::Busy(Job { operation, handle });
    }

    /// Waits for the running operation. `None` if no operation is running.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Finished>> {
        let Self::Busy(job) = self else {
            return Poll::Ready(None);
        };
        // Unconstrained, because without cooperative budget the join handle would wake the task here, under the lock of
        // the body.
        let outcome = ready!(pin!(unconstrained(&mut job.handle)).poll(cx));
        let operation = job.operation;
        let Outcome { file, result } = outcome.unwrap_or_else(|error| Outcome {
            file: None,
            result: Err(io::Error::other(error)),
        });
        *self = file.map_or(Self::Nothing, Self::Idle);
        Poll::Ready(Some(match operation {
            Operation::Write => Finished::Write(result.map(drop)),
            Operation::Read { at } => Finished::Read { at, result },
        }))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Nothing needs the result any more. Aborting has an effect only while the operation waits for a thread.
        self.handle.abort();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // On a blocking thread, because closing the file frees its blocks, which takes time in proportion to its
            // size.
            drop(self.runtime.spawn_blocking(move || drop(file)));
        }
    }
}

fn write(file: &mut File, at: u64, data: &[Bytes]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    data.iter().try_for_each(|data| file.write_all(data))
}

fn read(file: &mut File, at: u64, len: usize) -> io::Result<Bytes> {
    let mut data = vec![0; len];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut data)?;
    Ok(data.into())
}
