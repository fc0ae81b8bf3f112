//! Waits for other processes, threads, sockets and files.
//!
//! The one place that says how often such tests look and when they give up. Tests with a paused clock and a single
//! thread need nothing of it: see `support::until`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{self, timeout};

/// The longest wait. A machine that is five times slower and busy must not reach it.
pub const BOUND: Duration = Duration::from_secs(120);

/// Between two looks, so that the processors are free for what the test waits for.
pub const PAUSE: Duration = Duration::from_millis(15);

/// Looks until there is something to return. A look that hangs fails too.
///
/// Measures real time, also where tokio's clock is paused. A paused clock does not advance between looks.
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
            // tokio's `sleep` takes no real time.
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

/// Looks until a condition holds, as [`eventually`] does.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    eventually(what, async || condition().await.then_some(())).await;
}

/// The output of a future that waits for another process, thread, socket or file.
pub async fn soon<F: Future>(future: F) -> F::Output {
    timeout(BOUND, future).await.expect("it happens")
}

/// What another process writes after `marker`, in the first line that has it. The rest of its output is read, so that the
/// process can write it, and forgotten.
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
