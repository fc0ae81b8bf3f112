//! Durable promises whose outcome is remembered in a transaction of the application, for each database that a backend can
//! share with an application.

use crate::eventually::{PAUSE, soon, until};
use crate::operation::{Answer, App, SECOND};
use crate::task::chain;
use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use futures_util::future::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_promises::backend::{
    ApplicationConnection, Backend, BackendError, JoinedTransaction, Transactional,
};
use tower_promises::operations::OperationLayer;
use tower_promises::operations::durable::{DurableRun, Settlement, Settling};
use tower_promises::{PromiseError, PromiseLayer, Promises};

pub use tower_promises::BoxError;

/// An application with a table of orders in the database of its backend.
pub trait Shop: Clone + Send + Sync + 'static {
    type Transaction: Send + 'static;

    /// Connects to the backend like another process.
    fn backend(&self) -> impl Future<Output = Backend> + Send;

    /// Begins a transaction that waits for others where it would have a conflict.
    fn begin(&self) -> impl Future<Output = Result<Self::Transaction, BoxError>> + Send;

    /// Begins a transaction that sees the database as it was at its first statement, and has a conflict if it then changes
    /// what others have changed.
    fn begin_reading(&self) -> impl Future<Output = Result<Self::Transaction, BoxError>> + Send;

    /// Writes an order.
    fn order(
        &self,
        transaction: &mut Self::Transaction,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Counts the orders.
    fn orders(
        &self,
        transaction: &mut Self::Transaction,
    ) -> impl Future<Output = Result<i64, BoxError>> + Send;

    fn commit(
        &self,
        transaction: Self::Transaction,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    fn rollback(
        &self,
        transaction: Self::Transaction,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

async fn count(shop: &impl Shop) -> i64 {
    let mut transaction = shop.begin().await.unwrap();
    let orders = shop.orders(&mut transaction).await.unwrap();
    shop.rollback(transaction).await.unwrap();
    orders
}

/// A process that answers requests with a handler, and takes up their runs.
struct Process {
    app: App,
    worker: JoinHandle<()>,
}

impl Process {
    async fn start(
        shop: &impl Shop,
        configure: impl FnOnce(OperationLayer) -> OperationLayer,
        handler: impl Fn(&Promises) -> Result<String, PromiseError> + Clone + Send + Sync + 'static,
    ) -> Self {
        let handler = move |promises: &Promises, _: &DurableRun| handler(promises);
        Self::start_on(shop.backend().await, configure, handler)
    }

    fn start_on(
        backend: Backend,
        configure: impl FnOnce(OperationLayer) -> OperationLayer,
        handler: impl Fn(&Promises, &DurableRun) -> Result<String, PromiseError>
        + Clone
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let layer = OperationLayer::new(backend)
            .durable(|request| request.method == http::Method::POST)
            .lease(10 * SECOND)
            .wait(Duration::ZERO);
        let layer = configure(layer);
        let (operations, running) = (layer.operations(), layer.operations());
        let answer =
            async move |promises: Promises, Extension(run): Extension<DurableRun>| match handler(
                &promises, &run,
            ) {
                Ok(text) => (http::StatusCode::OK, text),
                Err(error) => (error.status(), chain(&error)),
            };
        let inner = Router::new().fallback(answer).layer(PromiseLayer::new());
        let router = inner.clone().layer(layer);
        let worker = tokio::spawn(async move {
            let worked = running.work::<_, Body, _>(inner).await;
            worked.unwrap();
        });
        let app = App { router, operations };
        Self { app, worker }
    }

    async fn begin(&self) -> String {
        soon(self.app.start("POST /order", &[])).await
    }

    /// Returns the result of an operation that may end so soon that it is the first answer.
    async fn answer(&self) -> Answer {
        let answer = soon(self.app.ask("POST /order", &[])).await;
        match answer.header("operation-location") {
            "" => answer,
            path => self.result(path).await,
        }
    }

    async fn result(&self, path: &str) -> Answer {
        soon(self.app.ended(path)).await;
        soon(self.app.get(&format!("{path}/result"))).await
    }

    /// Loses the process, with the transactions that it has begun.
    async fn lose(self) {
        self.worker.abort();
        let _ = self.worker.await;
    }
}

/// Writes an order in a transaction that remembers a value.
fn order_with(
    promises: &Promises,
    shop: &impl Shop,
    value: &'static str,
) -> Result<String, PromiseError> {
    let shop = shop.clone();
    promises.durable_within("order", move |remember| {
        let shop = shop.clone();
        async move {
            let mut transaction = shop.begin().await?;
            shop.order(&mut transaction).await?;
            let value = value.to_owned();
            remember.within(&mut transaction, &value).await?;
            shop.commit(transaction).await?;
            Ok::<_, BoxError>(value)
        }
    })
}

/// Where the process of a promise hangs until it is lost.
#[derive(Clone, Copy, PartialEq)]
enum Hangs {
    Never,
    BeforeTheCommit,
    AfterTheCommit,
}

/// The attempts of a process to write an order, and those that have come to the point where they hang.
#[derive(Clone, Default)]
struct Attempts {
    begun: Arc<AtomicUsize>,
    hanging: Arc<AtomicUsize>,
}

/// Writes an order in a transaction that remembers its number.
fn order(
    promises: &Promises,
    shop: &impl Shop,
    hangs: Hangs,
    attempts: &Attempts,
) -> Result<i64, PromiseError> {
    let (shop, attempts) = (shop.clone(), attempts.clone());
    promises.durable_within("order", move |remember| {
        attempts.begun.fetch_add(1, Ordering::SeqCst);
        let (shop, hanging) = (shop.clone(), attempts.hanging.clone());
        async move {
            let mut transaction = shop.begin().await?;
            shop.order(&mut transaction).await?;
            let number = shop.orders(&mut transaction).await?;
            remember.within(&mut transaction, &number).await?;
            if hangs == Hangs::BeforeTheCommit {
                hanging.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            shop.commit(transaction).await?;
            if hangs == Hangs::AfterTheCommit {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(number)
        }
    })
}

/// Starts a process that writes orders.
async fn ordering(shop: &impl Shop, hangs: Hangs) -> (Process, Attempts) {
    let attempts = Attempts::default();
    let (own, counted) = (shop.clone(), attempts.clone());
    let handler = move |promises: &Promises| {
        let number = order(promises, &own, hangs, &counted)?;
        Ok(format!("order {number}"))
    };
    let process = Process::start(shop, |layer| layer.lease(SECOND), handler).await;
    (process, attempts)
}

/// Loses a process that hangs, and checks whether another one repeats its transaction.
async fn happens_once(shop: impl Shop, hangs: Hangs, is_repeated: bool) {
    let (process, attempts) = ordering(&shop, hangs).await;
    let path = process.begin().await;
    until("the process hangs", async || match hangs {
        // The run may read what the transaction has remembered, and then drops the promise.
        Hangs::AfterTheCommit => count(&shop).await == 1,
        _ => attempts.hanging.load(Ordering::SeqCst) > 0,
    })
    .await;
    process.lose().await;

    let (process, again) = ordering(&shop, Hangs::Never).await;
    assert_eq!(process.result(&path).await.body, "order 1");
    assert_eq!(again.begun.load(Ordering::SeqCst) > 0, is_repeated);
    assert_eq!(count(&shop).await, 1);
}

/// # Panics
///
/// Panics if it is not, as all functions of this module do.
pub async fn a_transaction_that_was_not_committed_is_repeated(shop: impl Shop) {
    happens_once(shop, Hangs::BeforeTheCommit, true).await;
}

pub async fn a_transaction_that_was_committed_is_not_repeated(shop: impl Shop) {
    happens_once(shop, Hangs::AfterTheCommit, false).await;
}

pub async fn a_promise_that_the_application_has_settled_rolls_its_transaction_back(
    shop: impl Shop,
) {
    let (reached, settled) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let attempts = Arc::<AtomicUsize>::default();
    let (own, begun, end) = (shop.clone(), reached.clone(), settled.clone());
    let counted = attempts.clone();
    let handler = move |promises: &Promises| {
        let (shop, begun, end) = (own.clone(), begun.clone(), end.clone());
        let counted = counted.clone();
        let number: i64 = promises.durable_within("order", move |remember| {
            counted.fetch_add(1, Ordering::SeqCst);
            let (shop, begun, end) = (shop.clone(), begun.clone(), end.clone());
            async move {
                begun.notify_one();
                end.notified().await;
                let mut transaction = shop.begin().await?;
                shop.order(&mut transaction).await?;
                remember.within(&mut transaction, &1).await?;
                shop.commit(transaction).await?;
                Ok::<_, BoxError>(1)
            }
        })?;
        Ok(format!("order {number}"))
    };
    let process = Process::start(&shop, |layer| layer, handler).await;
    let path = process.begin().await;
    soon(reached.notified()).await;
    settle(&process, &path, "order").await;
    settled.notify_one();
    assert_eq!(process.result(&path).await.body, "order 7");
    assert_eq!(count(&shop).await, 0);
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

/// Settles a promise with the value 7.
async fn settle(process: &Process, path: &str, name: &str) {
    let id = path.rsplit('/').next().unwrap();
    let seven = Settlement::value(&7).unwrap();
    let settled = process.app.operations.settle(id, name, &seven).await;
    assert_eq!(settled.unwrap(), Settling::Settled);
}

/// A backend that joins transactions when the run has learned that the promise `order` is settled.
#[derive(Clone)]
struct Late {
    backend: Backend,
    run: Arc<OnceLock<DurableRun>>,
    reached: Arc<Notify>,
}

impl Transactional for Late {
    fn join<'c>(
        &'c self,
        connection: ApplicationConnection<'c>,
    ) -> BoxFuture<'c, Result<Box<dyn JoinedTransaction + 'c>, BackendError>> {
        Box::pin(async move {
            self.reached.notify_one();
            let run = self.run.get().unwrap();
            while run.recall("order").is_none() {
                sleep(PAUSE).await;
            }
            self.backend.join(connection).await
        })
    }
}

pub async fn a_promise_that_is_settled_while_its_transaction_is_joined_rolls_it_back(
    shop: impl Shop,
) {
    let late = Late {
        backend: shop.backend().await,
        run: Arc::default(),
        reached: Arc::default(),
    };
    let (own, slot) = (shop.clone(), late.run.clone());
    let handler = move |promises: &Promises, run: &DurableRun| {
        let _ = slot.set(run.clone());
        let shop = own.clone();
        let number: i64 = promises.durable_within("order", move |remember| {
            let shop = shop.clone();
            async move {
                // Locks nothing before its first statement.
                let mut transaction = shop.begin_reading().await?;
                remember.within(&mut transaction, &1).await?;
                shop.order(&mut transaction).await?;
                shop.commit(transaction).await?;
                Ok::<_, BoxError>(1)
            }
        })?;
        Ok(format!("order {number}"))
    };
    let backend = late.backend.clone().transactional(late.clone());
    let process = Process::start_on(backend, |layer| layer, handler);
    let path = process.begin().await;
    soon(late.reached.notified()).await;
    settle(&process, &path, "order").await;
    assert_eq!(process.result(&path).await.body, "order 7");
    assert_eq!(count(&shop).await, 0);
}

pub async fn a_value_that_is_too_large_rolls_its_transaction_back(shop: impl Shop) {
    let own = shop.clone();
    let long: &'static str = "x".repeat(2000).leak();
    let configure = |layer: OperationLayer| layer.max_remembered_bytes(1000);
    let handler = move |promises: &Promises| order_with(promises, &own, long);
    let process = Process::start(&shop, configure, handler).await;
    let answer = process.answer().await;
    assert_eq!(answer.status, 500);
    for part in [
        "the outcome could not be stored in the transaction",
        "bytes, and may remember 1000",
    ] {
        assert!(answer.body.contains(part), "{}", answer.body);
    }
    assert_eq!(count(&shop).await, 0);
}

pub async fn a_name_too_many_rolls_its_transaction_back(shop: impl Shop) {
    let own = shop.clone();
    let handler = move |promises: &Promises| {
        promises.durable("stock", async || 1)?;
        order_with(promises, &own, "tea")
    };
    let process = Process::start(&shop, |layer| layer.max_remembered(1), handler).await;
    let answer = process.answer().await;
    assert_eq!(answer.status, 500);
    let limit = "the operation has 1 remembered entries, and may not have more";
    assert!(answer.body.contains(limit), "{}", answer.body);
    assert_eq!(count(&shop).await, 0);
}

/// The memory of the operation changes after the transaction has read, so the transaction must be repeated.
pub async fn a_transaction_with_a_conflict_is_repeated(shop: impl Shop) {
    let (reached, changed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let attempts = Arc::<AtomicUsize>::default();
    let (own, begun, go_on) = (shop.clone(), reached.clone(), changed.clone());
    let counted = attempts.clone();
    let handler = move |promises: &Promises| {
        let (shop, begun, go_on) = (own.clone(), begun.clone(), go_on.clone());
        let counted = counted.clone();
        let number: i64 = promises.durable_within("order", move |remember| {
            let (shop, begun, go_on) = (shop.clone(), begun.clone(), go_on.clone());
            let attempt = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                let mut transaction = shop.begin_reading().await?;
                let number = shop.orders(&mut transaction).await? + 1;
                if attempt == 0 {
                    begun.notify_one();
                    go_on.notified().await;
                }
                remember.within(&mut transaction, &number).await?;
                shop.order(&mut transaction).await?;
                shop.commit(transaction).await?;
                Ok::<_, BoxError>(number)
            }
        })?;
        Ok(format!("order {number}"))
    };
    let process = Process::start(&shop, |layer| layer, handler).await;
    let path = process.begin().await;
    soon(reached.notified()).await;
    settle(&process, &path, "other").await;
    changed.notify_one();
    assert_eq!(process.result(&path).await.body, "order 1");
    assert_eq!(count(&shop).await, 1);
    // Another renewal of the lease may be another conflict.
    assert!(attempts.load(Ordering::SeqCst) >= 2);
}

/// The error is remembered, and the value of the transaction is not.
pub async fn a_transaction_that_is_rolled_back_remembers_no_value(shop: impl Shop) {
    let attempts = Arc::<AtomicUsize>::default();
    let (own, counted) = (shop.clone(), attempts.clone());
    let handler = move |promises: &Promises| {
        let (shop, counted) = (own.clone(), counted.clone());
        let order: Result<i64, _> = promises.durable_within("order", move |remember| {
            counted.fetch_add(1, Ordering::SeqCst);
            let shop = shop.clone();
            async move {
                let mut transaction = shop.begin().await?;
                shop.order(&mut transaction).await?;
                remember.within(&mut transaction, &1).await?;
                shop.rollback(transaction).await?;
                Err(BoxError::from("the card is refused"))
            }
        });
        // A later run reads what is remembered.
        promises.sleep("pause", SECOND + SECOND / 2)?;
        order.map(|number| format!("order {number}"))
    };
    let process = Process::start(&shop, |layer| layer, handler).await;
    let path = process.begin().await;
    let answer = process.result(&path).await;
    assert_eq!(answer.status, 500);
    let refused = "the card is refused";
    assert!(answer.body.contains(refused), "{}", answer.body);
    assert_eq!(count(&shop).await, 0);
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

/// Makes a test of each function of this module. The expression opens the application.
#[macro_export]
macro_rules! tests_within {
    ($open:expr) => {
        $crate::tests_within! {
            $open,
            a_transaction_that_was_not_committed_is_repeated,
            a_transaction_that_was_committed_is_not_repeated,
            a_promise_that_the_application_has_settled_rolls_its_transaction_back,
            a_promise_that_is_settled_while_its_transaction_is_joined_rolls_it_back,
            a_value_that_is_too_large_rolls_its_transaction_back,
            a_name_too_many_rolls_its_transaction_back,
            a_transaction_with_a_conflict_is_repeated,
            a_transaction_that_is_rolled_back_remembers_no_value
        }
    };
    ($open:expr, $($test:ident),+) => {
        $(
            #[tokio::test]
            async fn $test() {
                $crate::within::$test($open).await;
            }
        )+
    };
}
