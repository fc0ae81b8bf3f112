//! What a child does in order not to be left over.

use super::{END_TIMEOUT, WATCH_INTERVAL};
use std::process::abort;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

/// While it lives, the job runs. Afterwards the process has [`END_TIMEOUT`] to end.
pub(super) struct Job {
    has_ended: Arc<AtomicBool>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// Ends this process when its server is gone, or when it does not end after its job. It aborts: what else ends a
/// process waits for destructors and handlers, which may be what holds it up.
pub(super) fn begin(server: u32) -> Job {
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
    // Where no thread is to be had, the job runs all the same.
    let _ = thread::Builder::new()
        .name("process-watch".to_owned())
        .spawn(watch);
    Job { has_ended }
}

/// A process whose parent has ended gets another one.
#[cfg(unix)]
fn is_orphan(server: u32) -> bool {
    std::os::unix::process::parent_id() != server
}

#[cfg(not(unix))]
fn is_orphan(_: u32) -> bool {
    false
}
