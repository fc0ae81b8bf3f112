//! A savepoint in a transaction of the application, which can be cancelled at any time.

use futures_util::future::BoxFuture;
use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{Connection, Transaction};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

type Setting<'c> = BoxFuture<'c, sqlx::Result<Transaction<'c, Sqlite>>>;

/// Sets a savepoint: a nested transaction of sqlx, which is rolled back on drop.
///
/// A nested `begin` of sqlx 0.9 that is dropped rolls back twice: the savepoint, and then the transaction around it. The
/// next statements of the application would be committed one by one. So this future, when it is dropped, first waits for
/// the savepoint. That takes the time of two context switches, because the statement needs no lock and no file.
pub(super) struct SetSavepoint<'c>(Option<Setting<'c>>);

impl<'c> SetSavepoint<'c> {
    pub(super) fn new(connection: &'c mut SqliteConnection) -> Self {
        Self(Some(Box::pin(connection.begin())))
    }
}

impl<'c> Future for SetSavepoint<'c> {
    type Output = sqlx::Result<Transaction<'c, Sqlite>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(setting) = &mut self.0 else {
            return Poll::Pending;
        };
        let polled = setting.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl Drop for SetSavepoint<'_> {
    fn drop(&mut self) {
        if let Some(setting) = self.0.take() {
            drop(wait(setting));
        }
    }
}

/// Waits for the savepoint on this thread. The thread of the connection wakes it.
fn wait(mut setting: Setting<'_>) -> sqlx::Result<Transaction<'_, Sqlite>> {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match setting.as_mut().poll(&mut context) {
            Poll::Ready(set) => return set,
            Poll::Pending => thread::park(),
        }
    }
}
