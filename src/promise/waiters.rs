use crate::sync::Mutex;
use std::collections::BTreeMap;
use std::task::Waker;

/// Who waits for something that happens once.
///
/// The wakers are other people's code: they are cloned under the lock, but run and dropped outside.
#[derive(Default)]
pub(super) struct Waiters {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// It has happened.
    is_over: bool,
    wakers: BTreeMap<u64, Waker>,
    /// How many have waited.
    last: u64,
}

impl Waiters {
    /// Wakes the waiter of this number, or of a new one, when it happens. `false` if it has.
    pub(super) fn register(&self, number: &mut Option<u64>, waker: &Waker) -> bool {
        let former = {
            let mut state = self.state.lock();
            if state.is_over {
                return false;
            }
            let number = *number.get_or_insert_with(|| {
                state.last += 1;
                state.last
            });
            state.wakers.insert(number, waker.clone())
        };
        drop(former);
        true
    }

    pub(super) fn unregister(&self, number: Option<u64>) {
        if let Some(number) = number {
            let former = self.state.lock().wakers.remove(&number);
            drop(former);
        }
    }

    /// It has happened, which must be visible to those who wake.
    pub(super) fn finish(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.is_over = true;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }

    /// Wakes all who wait now, though it has not happened.
    pub(super) fn wake(&self) {
        let wakers = std::mem::take(&mut self.state.lock().wakers);
        wakers.into_values().for_each(Waker::wake);
    }
}

/// `RUSTFLAGS="--cfg tower_promises_loom" cargo test --lib --release` tries every order of events.
#[cfg(all(test, tower_promises_loom))]
mod tests {
    use super::Waiters;
    use loom::future::block_on;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::thread;
    use std::future::poll_fn;
    use std::task::Poll;

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
}
