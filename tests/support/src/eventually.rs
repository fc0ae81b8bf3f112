//! Waits for other processes, threads, sockets and files.
//!
//! This module defines how often such tests check a condition and when they give up. Tests with a paused clock and a
//! single thread use [`until`](crate::until) instead.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{self, timeout};

/// The longest wait. It is long enough for a busy machine that is five times slower.
pub const BOUND: Duration = Duration::from_secs(120);

/// The pause between two checks, which leaves the processors to the awaited work.
pub const PAUSE: Duration = Duration::from_millis(15);

/// Calls `look` until it returns a value. A look that hangs fails too.
///
/// Measures real time, even if tokio's clock is paused. A paused clock does not advance between looks.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut clock_is_paused = None;
    let mut alarm = Alarm::after(BOUND);
    loop {
        let found = tokio::select! {
            biased;
            found = look() => found,
            _ = &mut alarm.rings => panic!("{what} never happens: a look hangs"),
        };
        if let Some(found) = found {
            return found;
        }
        assert!(start.elapsed() < BOUND, "{what} never happens");
        if *clock_is_paused.get_or_insert_with(is_clock_paused) {
            // With a paused clock, tokio's `sleep` takes no real time.
            spawn_blocking(|| std::thread::sleep(PAUSE)).await.unwrap();
        } else {
            time::sleep(PAUSE).await;
        }
    }
}

/// Rings after a time that tokio's clock does not measure.
struct Alarm {
    rings: oneshot::Receiver<()>,
    _end: mpsc::Sender<()>,
}

impl Alarm {
    fn after(time: Duration) -> Self {
        let (ring, rings) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(time) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = ring.send(());
            }
        });
        Self { rings, _end: end }
    }
}

fn is_clock_paused() -> bool {
    let start = time::Instant::now();
    std::thread::sleep(Duration::from_millis(1));
    start.elapsed().is_zero()
}

/// Checks a condition until it holds, like [`eventually`].
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    eventually(what, async || condition().await.then_some(())).await;
}

/// Returns the output of a future that waits for another process, thread, socket or file.
pub async fn soon<F: Future>(future: F) -> F::Output {
    timeout(BOUND, future)
        .await
        .expect("the future resolves in time")
}

/// Returns the text after `marker`, in the first line of a process's output that contains it. The rest of the output is
/// read and discarded, so that the process does not block on a full pipe.
pub fn line_after(marker: &'static str, output: impl Read + Send + 'static) -> String {
    let (sender, line) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once(marker) {
                let _ = sender.send(rest.trim().to_owned());
            }
        }
    });
    let line = line.recv_timeout(BOUND);
    line.unwrap_or_else(|error| panic!("the other process does not say `{marker}`: {error}"))
}
