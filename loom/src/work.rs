use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The value of a promise.
pub(crate) const VALUE: u8 = 7;

/// The event that work waits for.
#[derive(Clone)]
pub(crate) struct Event(Arc<State>);

struct State {
    has_happened: AtomicBool,
    waker: Mutex<Option<Waker>>,
    /// The number of times that work was dropped.
    drops: AtomicUsize,
}

/// Work that is pending until its event happens.
pub(crate) struct Work(Event);

impl Event {
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            has_happened: AtomicBool::new(false),
            waker: Mutex::new(None),
            drops: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn happen(&self) {
        self.0.has_happened.store(true, Ordering::Release);
        let waker = self.0.waker.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn work(&self) -> Work {
        Work(self.clone())
    }

    pub(crate) fn drops(&self) -> usize {
        self.0.drops.load(Ordering::Relaxed)
    }
}

impl Future for Work {
    type Output = u8;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u8> {
        let state = &self.0.0;
        let former = state.waker.lock().unwrap().replace(cx.waker().clone());
        drop(former);
        match state.has_happened.load(Ordering::Acquire) {
            true => Poll::Ready(VALUE),
            false => Poll::Pending,
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.0.drops.fetch_add(1, Ordering::Relaxed);
    }
}
