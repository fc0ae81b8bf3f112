//! Watcher thread of a child, which prevents orphaned processes.

use std::process::abort;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The time for a process to send its output and to end. Then it aborts.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval at which a child checks whether its server still runs.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Guard that lives while the job runs. After it is dropped, the process has [`END_TIMEOUT`] to end.
pub(super) struct RunningJob {
    has_ended: Arc<AtomicBool>,
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// Starts the watcher. It ends this process when the server is gone, or when the process does not end after its job.
///
/// The watcher aborts, because a normal exit waits for destructors and exit handlers, which may be what blocks the
/// process.
pub(super) fn begin(server: u32) -> RunningJob {
    let has_ended = Arc::new(AtomicBool::new(false));
    let job_has_ended = Arc::clone(&has_ended);
    let watch = move || {
        let mut deadline = None;
        loop {
            thread::sleep(WATCH_INTERVAL);
            if is_orphan(server) {
                abort();
            }
            if job_has_ended.load(Ordering::Relaxed) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + END_TIMEOUT);
                if Instant::now() >= deadline {
                    abort();
                }
            }
        }
    };
    // The job also runs if no thread can be created.
    let _ = thread::Builder::new()
        .name("process-watch".to_owned())
        .spawn(watch);
    RunningJob { has_ended }
}

/// The parent of an orphaned process changes.
#[cfg(unix)]
fn is_orphan(server: u32) -> bool {
    std::os::unix::process::parent_id() != server
}

#[cfg(not(unix))]
fn is_orphan(_: u32) -> bool {
    false
}
