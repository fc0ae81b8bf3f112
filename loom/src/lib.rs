//! Tries wake-up code of tower-promises in every order of events: `LOOM_MAX_PREEMPTIONS=3 cargo test --release`.
#![cfg(test)]

#[path = "../../src/promise/waiters.rs"]
#[expect(dead_code, reason = "not all of it is tested here")]
mod waiters;

/// What the crate has from the standard library, from loom.
mod sync {
    use loom::sync::MutexGuard;

    #[derive(Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no test panics while it holds a lock")
        }
    }
}

use loom::future::block_on;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use std::future::poll_fn;
use std::task::Poll;
use waiters::Waiters;

struct Event {
    has_happened: AtomicBool,
    waiters: Waiters,
}

impl Event {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            has_happened: AtomicBool::new(false),
            waiters: Waiters::default(),
        })
    }

    fn happen(&self) {
        self.has_happened.store(true, Ordering::Release);
        self.waiters.finish();
    }

    /// As a waiter for a promise does it.
    async fn wait(&self) {
        let mut number = None;
        poll_fn(|cx| {
            loop {
                if self.has_happened.load(Ordering::Acquire) {
                    return Poll::Ready(());
                }
                if self.waiters.register(&mut number, cx.waker()) {
                    return Poll::Pending;
                }
            }
        })
        .await;
        self.waiters.unregister(number);
    }
}

#[test]
fn no_waiter_misses_it() {
    loom::model(|| {
        let event = Event::new();
        let waiters = [(); 2].map(|()| {
            let event = Arc::clone(&event);
            thread::spawn(move || block_on(event.wait()))
        });
        event.happen();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[test]
fn a_waiter_that_leaves_takes_nobody_elses_place() {
    loom::model(|| {
        let event = Event::new();
        let leaving = Arc::clone(&event);
        let leaving = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let mut number = None;
                leaving.waiters.register(&mut number, cx.waker());
                leaving.waiters.unregister(number);
                Poll::Ready(())
            }));
        });
        let staying = Arc::clone(&event);
        let staying = thread::spawn(move || block_on(staying.wait()));
        event.happen();
        leaving.join().unwrap();
        staying.join().unwrap();
    });
}
