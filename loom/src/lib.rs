//! Model-checks how threads hand over the work and the outcome of a promise of tower-promises, in every order of events
//! with at most three preemptions, or as many as `LOOM_MAX_PREEMPTIONS` says.
#![cfg(test)]

#[path = "../../src/promise/handover.rs"]
mod handover;
#[path = "../../src/promise/waiters.rs"]
mod waiters;

/// Replaces the module `sync` of the crate, with the mutex of loom instead of that of the standard library.
mod sync {
    use loom::sync::MutexGuard;

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no test panics while it holds a lock")
        }
    }
}

use handover::{Progress, Remains, Taken};
use loom::future::block_on;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use waiters::Waiters;

fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(3);
    model.check(test);
}

const VALUE: u8 = 7;
const CANCELLED: u8 = 8;

/// Waits in the same way as a waiter of a promise that a response future drives.
async fn wait(waiters: &Waiters<u8>) -> u8 {
    let mut number = None;
    let outcome = poll_fn(|cx| waiters.poll(&mut number, cx.waker())).await;
    waiters.unregister(number);
    outcome
}

#[test]
fn no_waiter_misses_the_outcome() {
    model(|| {
        let waiters = Arc::new(Waiters::default());
        let threads = [(); 2].map(|()| {
            let waiters = Arc::clone(&waiters);
            thread::spawn(move || block_on(wait(&waiters)))
        });
        waiters.finish(VALUE);
        for thread in threads {
            assert_eq!(thread.join().unwrap(), VALUE);
        }
    });
}

#[test]
fn a_waiter_that_leaves_does_not_remove_another_waiter() {
    model(|| {
        let waiters = Arc::new(Waiters::default());
        let leaving = Arc::clone(&waiters);
        let leaving = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let mut number = None;
                let _ = leaving.poll(&mut number, cx.waker());
                leaving.unregister(number);
                Poll::Ready(())
            }));
        });
        let staying = Arc::clone(&waiters);
        let staying = thread::spawn(move || block_on(wait(&staying)));
        waiters.finish(VALUE);
        leaving.join().unwrap();
        assert_eq!(staying.join().unwrap(), VALUE);
    });
}

/// A promise as the registry of a request has it, behind a lock.
struct Promise {
    /// `None` after the promise was removed.
    progress: Mutex<Option<Progress<Work, u8>>>,
    waiters: std::sync::Arc<Waiters<u8>>,
    source: Arc<Source>,
}

/// The event that the work waits for.
struct Source {
    has_happened: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// Work that is pending until its source has something.
struct Work {
    source: Arc<Source>,
    /// Counts the drop of the work.
    is_dropped: Arc<AtomicBool>,
}

impl Source {
    fn happen(&self) {
        self.has_happened.store(true, Ordering::Release);
        let waker = self.waker.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Work {
    fn poll(&mut self, waker: &Waker) -> Poll<u8> {
        *self.source.waker.lock().unwrap() = Some(waker.clone());
        match self.source.has_happened.load(Ordering::Acquire) {
            true => Poll::Ready(VALUE),
            false => Poll::Pending,
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let was_dropped = self.is_dropped.swap(true, Ordering::Relaxed);
        assert!(!was_dropped, "the work is dropped once");
    }
}

impl Promise {
    fn new() -> (Arc<Self>, Arc<AtomicBool>) {
        let source = Arc::new(Source {
            has_happened: AtomicBool::new(false),
            waker: Mutex::new(None),
        });
        let is_dropped = Arc::new(AtomicBool::new(false));
        let mut progress = Progress::new(Work {
            source: Arc::clone(&source),
            is_dropped: Arc::clone(&is_dropped),
        });
        let promise = Self {
            waiters: progress.waiters(),
            progress: Mutex::new(Some(progress)),
            source,
        };
        (Arc::new(promise), is_dropped)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Progress<Work, u8>) -> R) -> Option<R> {
        self.progress.lock().unwrap().as_mut().map(f)
    }

    /// Polls the work if it is there, as the response future does, or a waiter without one.
    fn poll(&self, waker: &Waker) {
        let Some(Taken::Work(mut work)) = self.with(Progress::take) else {
            return;
        };
        match work.poll(waker) {
            Poll::Ready(outcome) => {
                drop(work);
                let settle = |progress: &mut Progress<_, _>| match progress.settle_alone(outcome) {
                    Ok(()) => None,
                    Err(outcome) => progress.settle(outcome).ok(),
                };
                if let Some(remains) = self.with(settle).flatten() {
                    finish(remains, outcome);
                }
            }
            Poll::Pending => {
                let mut work = Some(work);
                let put_back = |progress: &mut Progress<_, _>| {
                    let result = work.take().map(|work| progress.put_back(work));
                    result.and_then(Result::err)
                };
                // Work that came too late is dropped without the lock.
                let late = self.with(put_back);
                drop((late, work));
            }
        }
    }

    fn settle(&self, outcome: u8) -> bool {
        let Some(Ok(remains)) = self.with(|progress| progress.settle(outcome)) else {
            return false;
        };
        finish(remains, outcome);
        true
    }

    /// Polls as the response future does, until the promise has settled.
    async fn drive(&self, driver: &Mutex<Option<Waker>>) {
        poll_fn(|cx| {
            *driver.lock().unwrap() = Some(cx.waker().clone());
            self.poll(cx.waker());
            let is_pending = self.with(|progress| progress.outcome().is_none());
            match is_pending {
                Some(true) => Poll::Pending,
                Some(false) | None => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Polls in the same way as a waiter without a response future.
    fn poll_wait(&self, number: &mut Option<u64>, waker: &Waker) -> Poll<u8> {
        if let Poll::Ready(outcome) = self.waiters.poll(number, waker) {
            return Poll::Ready(outcome);
        }
        self.poll(waker);
        self.waiters.poll(number, waker)
    }

    fn leave(&self, number: Option<u64>) {
        self.waiters.unregister(number);
        self.waiters.wake();
    }

    fn outcome(&self) -> Option<u8> {
        self.with(|progress| progress.outcome().copied()).flatten()
    }
}

/// Reports the outcome and drops unfinished work, without the lock.
fn finish(remains: Remains<Work, u8>, outcome: u8) {
    if let Some(waiters) = remains.waiters {
        waiters.finish(outcome);
    }
    drop(remains.work);
}

/// The settler makes the work ready, while the driver polls it, a canceller cancels it, and a waiter awaits it.
#[test]
fn a_promise_that_is_polled_cancelled_and_awaited_at_once_settles_once() {
    model(|| {
        let (promise, is_dropped) = Promise::new();
        let driver = Arc::new(Mutex::new(None));
        let driving = {
            let (promise, driver) = (Arc::clone(&promise), Arc::clone(&driver));
            thread::spawn(move || block_on(promise.drive(&driver)))
        };
        let waiting = {
            let waiters = std::sync::Arc::clone(&promise.waiters);
            thread::spawn(move || block_on(wait(&waiters)))
        };
        promise.source.happen();
        let is_cancelled = promise.settle(CANCELLED);
        let waker: Option<Waker> = driver.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
        driving.join().unwrap();
        let outcome = promise.outcome();
        assert_eq!(outcome, Some(if is_cancelled { CANCELLED } else { VALUE }));
        assert_eq!(outcome, Some(waiting.join().unwrap()));
        assert!(is_dropped.load(Ordering::Relaxed));
    });
}

#[test]
fn the_work_of_a_promise_that_is_removed_during_a_poll_is_dropped() {
    model(|| {
        let (promise, is_dropped) = Promise::new();
        let driver = Arc::new(Mutex::new(None));
        let driving = {
            let (promise, driver) = (Arc::clone(&promise), Arc::clone(&driver));
            thread::spawn(move || block_on(promise.drive(&driver)))
        };
        let removed = promise.progress.lock().unwrap().take();
        let mut removed = removed.expect("only this thread removes the promise");
        let remains = removed.settle(CANCELLED);
        assert!(remains.is_ok(), "the work is never ready");
        drop(remains);
        let waker: Option<Waker> = driver.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
        driving.join().unwrap();
        assert!(is_dropped.load(Ordering::Relaxed));
    });
}

#[test]
fn a_settled_promise_keeps_its_outcome() {
    let mut progress = Progress::<(), u8>::settled(VALUE);
    assert!(matches!(progress.take(), Taken::Settled(VALUE)));
    assert!(progress.put_back(()).is_err());
    assert!(progress.settle(CANCELLED).is_err());
    assert_eq!(progress.outcome(), Some(&VALUE));
}

#[test]
fn a_waiter_takes_over_the_work_of_a_waiter_that_leaves() {
    model(|| {
        let (promise, is_dropped) = Promise::new();
        let leaving = Arc::clone(&promise);
        let leaving = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let mut number = None;
                let _ = leaving.poll_wait(&mut number, cx.waker());
                leaving.leave(number);
                Poll::Ready(())
            }));
        });
        let staying = Arc::clone(&promise);
        let staying = thread::spawn(move || {
            let mut number = None;
            let outcome = block_on(poll_fn(|cx| staying.poll_wait(&mut number, cx.waker())));
            staying.leave(number);
            outcome
        });
        promise.source.happen();
        leaving.join().unwrap();
        assert_eq!(staying.join().unwrap(), VALUE);
        assert!(is_dropped.load(Ordering::Relaxed));
    });
}
