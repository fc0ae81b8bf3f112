//! The hand-written service, made safe for production and for any number of handlers.
//!
//! The panic of a promise is an error, a name is one promise, values have any type and are checked when they are read,
//! passes are limited, and no promise outlives its request.

use crate::stacks::{Work, names, total};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use http::{Request, Response};
use http_body_util::Full;
use std::any::Any;
use std::collections::HashMap;
use std::future::ready;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tower::{Service, ServiceExt, service_fn};
use tower_promises::BoxError;

const MAX_PASSES: usize = 16;

type Value = Box<dyn Any + Send + Sync>;

type Outcome = Result<Value, String>;

/// The promises of a request.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    submitted: Vec<(&'static str, BoxFuture<'static, Outcome>)>,
    /// `None` while the promise is pending.
    outcomes: HashMap<&'static str, Option<Outcome>>,
    has_ended: bool,
}

#[derive(Debug)]
#[expect(dead_code, reason = "a handler would report the message")]
enum LedgerError {
    Pending,
    WrongType,
    Panicked(String),
    Ended,
}

impl Ledger {
    fn result_or_submit<T, F>(
        &self,
        name: &'static str,
        make: impl FnOnce() -> F,
    ) -> Result<T, LedgerError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        {
            let state = self.lock();
            if state.has_ended {
                return Err(LedgerError::Ended);
            }
            match state.outcomes.get(name) {
                Some(Some(Ok(value))) => {
                    let value = value.downcast_ref::<T>().cloned();
                    return value.ok_or(LedgerError::WrongType);
                }
                Some(Some(Err(message))) => return Err(LedgerError::Panicked(message.clone())),
                Some(None) => return Err(LedgerError::Pending),
                None => {}
            }
        }
        let future = AssertUnwindSafe(make()).catch_unwind();
        let future = future.map(|outcome| match outcome {
            Ok(value) => Ok(Box::new(value) as Value),
            Err(panic) => Err(match panic.downcast_ref::<&str>() {
                Some(message) => (*message).to_owned(),
                None => "the panic had no message".to_owned(),
            }),
        });
        let future = Box::pin(future);
        let mut state = self.lock();
        if state.outcomes.insert(name, None).is_none() {
            state.submitted.push((name, future));
        }
        Err(LedgerError::Pending)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops all promises with the request.
struct Scope(Ledger);

impl Drop for Scope {
    fn drop(&mut self) {
        let ended = State {
            has_ended: true,
            ..State::default()
        };
        let former = mem::replace(&mut *self.0.lock(), ended);
        drop(former);
    }
}

/// Calls a service until it submits no more promises.
async fn call<S, B>(mut inner: S, request: Request<B>) -> Result<S::Response, BoxError>
where
    S: Service<Request<B>, Error = BoxError>,
    B: Clone,
{
    let scope = Scope(Ledger::default());
    for _ in 0..MAX_PASSES {
        let mut pass = request.clone();
        pass.extensions_mut().insert(scope.0.clone());
        let response = inner.ready().await?.call(pass).await?;
        let submitted = mem::take(&mut scope.0.lock().submitted);
        if submitted.is_empty() {
            return Ok(response);
        }
        drop(response);
        let (names, work): (Vec<_>, Vec<_>) = submitted.into_iter().unzip();
        let outcomes = join_all(work).await;
        let mut state = scope.0.lock();
        for (name, outcome) in names.into_iter().zip(outcomes) {
            state.outcomes.insert(name, Some(outcome));
        }
    }
    Err("too many passes".into())
}

pub fn service(
    count: usize,
    yields: bool,
) -> impl Service<Request<Full<Bytes>>, Response: Sized, Error = BoxError> + Clone {
    let handle = move |request: Request<Full<Bytes>>| {
        let ledger = request.extensions().get::<Ledger>();
        let ledger = ledger.expect("`call` inserts it");
        let (mut sum, mut is_pending) = (0, false);
        for (number, &name) in (0..).zip(names(count)) {
            match ledger.result_or_submit(name, || Work { number, yields }) {
                Ok::<u64, _>(value) => sum += value,
                Err(_) => is_pending = true,
            }
        }
        assert!(is_pending || sum == total(count));
        ready(Ok::<_, BoxError>(Response::<Full<Bytes>>::default()))
    };
    let inner = service_fn(handle);
    service_fn(move |request| call(inner, request))
}
