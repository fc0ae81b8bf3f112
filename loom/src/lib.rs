//! Model-checks the wake-up code of tower-promises in every order of events with at most three preemptions, or as many as
//! `LOOM_MAX_PREEMPTIONS` says.
#![cfg(test)]

#[path = "../../src/promise/waiters.rs"]
mod waiters;

/// Replaces the module `sync` of the crate, with the mutex of loom instead of that of the standard library.
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
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use waiters::Waiters;

fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(3);
    model.check(test);
}

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

    /// Waits in the same way as a waiter for a promise.
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
fn no_waiter_misses_the_event() {
    model(|| {
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
fn a_waiter_that_leaves_does_not_remove_another_waiter() {
    model(|| {
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

/// Work that its waiters poll, as that of a promise without a response future.
struct Work {
    /// `None` while it is being polled.
    is_here: Mutex<Option<()>>,
    /// The waker of the task that continues the work.
    driver: Mutex<Option<Waker>>,
    can_go_on: AtomicBool,
    event: Arc<Event>,
}

impl Work {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            is_here: Mutex::new(Some(())),
            driver: Mutex::new(None),
            can_go_on: AtomicBool::new(false),
            event: Event::new(),
        })
    }

    fn go_on(&self) {
        self.can_go_on.store(true, Ordering::Release);
        let driver = self.driver.lock().unwrap().take();
        driver.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_here.lock().unwrap().take().is_none() {
            return Poll::Pending;
        }
        *self.driver.lock().unwrap() = Some(cx.waker().clone());
        if self.can_go_on.load(Ordering::Acquire) {
            self.event.happen();
            return Poll::Ready(());
        }
        *self.is_here.lock().unwrap() = Some(());
        Poll::Pending
    }

    /// Polls in the same way as a waiter for a promise.
    fn poll_wait(&self, number: &mut Option<u64>, cx: &Context<'_>) -> Poll<()> {
        loop {
            if self.event.has_happened.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            if !self.event.waiters.register(number, cx.waker()) {
                continue;
            }
            if self.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn leave(&self, number: Option<u64>) {
        self.event.waiters.unregister(number);
        self.event.waiters.wake();
    }
}

#[test]
fn a_waiter_takes_over_the_work_of_a_waiter_that_leaves() {
    model(|| {
        let work = Work::new();
        let leaving = Arc::clone(&work);
        let leaving = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                let mut number = None;
                let _ = leaving.poll_wait(&mut number, cx);
                leaving.leave(number);
                Poll::Ready(())
            }));
        });
        let staying = Arc::clone(&work);
        let staying = thread::spawn(move || {
            let mut number = None;
            block_on(poll_fn(|cx| staying.poll_wait(&mut number, cx)));
            staying.leave(number);
        });
        work.go_on();
        leaving.join().unwrap();
        staying.join().unwrap();
    });
}
