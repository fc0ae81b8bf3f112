//! Tasks that are submitted in a transaction of the application: they exist if and only if it commits. All tests run on
//! SQLite and on PostgreSQL.

mod orders;
mod postgres;

use futures_util::FutureExt;
use orders::{Orders, Transaction};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::eventually::{soon, until};
use test_support::task::chain;
use tower_promises_backend::{Backend, BackendError, Priority};
use tower_promises_tasks::{
    Principal, Task, TaskContext, TaskError, TaskFailure, TaskFilter, TaskId, TaskLimit,
    TaskQueueOptions, TaskState, Tasks, Unique,
};

/// Confirms an order, which must be in the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Confirm {
    order: String,
    /// At most one confirmation of a customer runs at once.
    customer: Option<String>,
}

/// What the confirmations of a test have done.
#[derive(Clone, Default)]
struct Confirmed {
    orders: Arc<Mutex<Vec<String>>>,
    now: Arc<AtomicUsize>,
}

impl Task for Confirm {
    const NAME: &'static str = "confirm";
    type Output = String;

    fn limit(&self, _: Option<&Principal>) -> Option<TaskLimit> {
        Some(TaskLimit::new(self.customer.clone()?, 1))
    }

    async fn run(self, context: TaskContext) -> Result<String, TaskFailure> {
        let items = context.state::<Orders>()?.items().await;
        let found = items.iter().filter(|item| **item == self.order).count();
        if found != 1 {
            return Err(format!("{found} orders of {}", self.order).into());
        }
        let confirmed: &Confirmed = context.state()?;
        let others = confirmed.now.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        confirmed.now.fetch_sub(1, Ordering::SeqCst);
        if self.customer.is_some() && others > 0 {
            return Err("another confirmation of the customer runs".into());
        }
        let principal = context.principal().map_or("nobody", Principal::as_str);
        let mut orders = confirmed.orders.lock().unwrap();
        orders.push(self.order.clone());
        Ok(format!("{} for {principal}", self.order))
    }
}

/// Writes an order and submits its confirmation in one transaction, which ends with a conflict at first.
#[derive(Serialize, Deserialize)]
struct Order(String);

impl Task for Order {
    const NAME: &'static str = "order";
    type Output = TaskId;

    async fn run(self, context: TaskContext) -> Result<TaskId, TaskFailure> {
        let mut transaction = context.state::<Orders>()?.begin().await;
        transaction.insert(&self.0).await;
        let submit = context.tasks().queue("mails").submit(confirm(&self.0));
        let id = transaction.submit(submit).await?;
        if context.attempt() == 1 {
            return Err(TaskFailure::conflict("another writer was faster"));
        }
        transaction.commit().await;
        Ok(id)
    }
}

struct Shop {
    tasks: Tasks,
    database: Orders,
    confirmed: Confirmed,
}

impl Shop {
    fn open((database, backend): (Orders, Backend)) -> Self {
        let confirmed = Confirmed::default();
        Self {
            tasks: tasks(backend, &database, &confirmed),
            database,
            confirmed,
        }
    }

    async fn begin(&self) -> Transaction<'static> {
        self.database.begin().await
    }

    async fn items(&self) -> Vec<String> {
        self.database.items().await
    }

    /// Returns the ids of all tasks.
    async fn ids(&self) -> Vec<String> {
        let page = self
            .tasks
            .list(&TaskFilter::new().limit(1000))
            .await
            .unwrap();
        let ids = page.tasks().iter().map(|task| task.id().to_string());
        ids.collect()
    }

    async fn confirm(
        &self,
        transaction: &mut Transaction<'_>,
        order: &str,
    ) -> Result<TaskId, TaskError> {
        let submit = self.tasks.queue("mails").submit(confirm(order));
        transaction.submit(submit.with_id(order)).await
    }

    async fn is_confirmed(&self, order: &str) {
        let output = soon(self.tasks.output::<Confirm>(&order.into())).await;
        assert_eq!(output.unwrap(), format!("{order} for nobody"));
    }

    fn orders(&self) -> Vec<String> {
        self.confirmed.orders.lock().unwrap().clone()
    }
}

fn tasks(backend: Backend, orders: &Orders, confirmed: &Confirmed) -> Tasks {
    let mails = TaskQueueOptions::new("mails").task::<Confirm>();
    Tasks::builder(backend)
        .queue(mails)
        .queue(TaskQueueOptions::new("orders").task::<Order>())
        .state(orders.clone())
        .state(confirmed.clone())
        .build()
}

fn confirm(order: &str) -> Confirm {
    Confirm {
        order: order.into(),
        customer: None,
    }
}

/// Defines a test on each database.
macro_rules! on_each_database {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::orders::in_a_file_of_sqlite).await;
            })*
        }

        mod postgresql {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::orders::on_postgresql).await;
            })*
        }
    };
}

on_each_database! {
    a_task_exists_if_and_only_if_its_transaction_commits,
    a_savepoint_that_is_rolled_back_takes_its_tasks_with_it,
    a_task_in_a_transaction_has_all_settings_of_a_submission,
    ids_and_their_policies_hold_in_a_transaction,
    a_task_is_replaced_with_the_commit,
    limits_hold_for_tasks_of_transactions,
    a_task_submits_the_next_one_in_its_own_transaction,
    a_submission_that_is_dropped_is_in_the_transaction_as_a_whole_or_not_at_all,
    a_submission_that_fails_leaves_the_transaction_as_it_was,
    a_transaction_of_another_database_is_refused,
}

async fn a_task_exists_if_and_only_if_its_transaction_commits(
    open: impl AsyncFn() -> (Orders, Backend),
) {
    let shop = Shop::open(open().await);
    let _worker = shop.tasks.work().unwrap();
    for commits in [false, true, false, true] {
        let order = if commits { "tea" } else { "cake" };
        let item = format!("{order} {}", shop.ids().await.len());
        let mut transaction = shop.begin().await;
        transaction.insert(&item).await;
        let before = shop.ids().await;
        let id = shop.confirm(&mut transaction, &item).await.unwrap();
        let error = shop.tasks.status(&id).await.unwrap_err();
        assert!(matches!(error, TaskError::NotFound { .. }), "{error:?}");
        assert_eq!(shop.ids().await, before);
        if commits {
            transaction.commit().await;
            // The task itself checks that it finds the order.
            shop.is_confirmed(&item).await;
        } else {
            transaction.rollback().await;
            let error = shop.tasks.status(&id).await.unwrap_err();
            assert!(matches!(error, TaskError::NotFound { .. }), "{error:?}");
        }
    }
    assert_eq!(shop.ids().await, ["tea 0", "tea 1"]);
    assert_eq!(shop.items().await, ["tea 0", "tea 1"]);
    assert_eq!(shop.orders(), ["tea 0", "tea 1"]);
}

async fn a_savepoint_that_is_rolled_back_takes_its_tasks_with_it(
    open: impl AsyncFn() -> (Orders, Backend),
) {
    let shop = Shop::open(open().await);
    let mut transaction = shop.begin().await;
    shop.confirm(&mut transaction, "before").await.unwrap();
    for commits in [false, true] {
        let order = if commits { "kept" } else { "undone" };
        let mut savepoint = transaction.savepoint().await;
        savepoint.insert(order).await;
        shop.confirm(&mut savepoint, order).await.unwrap();
        if commits {
            savepoint.commit().await;
        } else {
            savepoint.rollback().await;
        }
    }
    transaction.insert("before").await;
    transaction.commit().await;
    assert_eq!(shop.ids().await, ["before", "kept"]);
    let _worker = shop.tasks.work().unwrap();
    shop.is_confirmed("before").await;
    shop.is_confirmed("kept").await;
}

async fn a_task_in_a_transaction_has_all_settings_of_a_submission(
    open: impl AsyncFn() -> (Orders, Backend),
) {
    let shop = Shop::open(open().await);
    let mut transaction = shop.begin().await;
    for item in ["tea", "cake"] {
        transaction.insert(item).await;
    }
    let mails = shop.tasks.queue("mails");
    let ada = Principal::new("ada");
    let id = ada
        .scope(async {
            let submit = mails.submit(confirm("tea")).priority(Priority::High);
            let submit = submit.on_end("mails", confirm("cake"));
            let within = transaction.submit(submit);
            let id = within.id().clone();
            assert_eq!(within.await.unwrap(), id);
            id
        })
        .await;
    let delayed = mails
        .submit(confirm("tea"))
        .delay(Duration::from_secs(3600));
    let delayed = transaction.submit(delayed).await.unwrap();
    transaction.commit().await;
    let _worker = shop.tasks.work().unwrap();
    let output = soon(shop.tasks.output::<Confirm>(&id)).await.unwrap();
    assert_eq!(output, "tea for ada");
    until("the call on the end runs", async || {
        shop.orders() == ["tea", "cake"]
    })
    .await;
    let status = shop.tasks.status(&delayed).await.unwrap();
    assert_eq!(status.state(), TaskState::Queued);
    assert!(shop.tasks.cancel(&delayed).await.unwrap());
}

async fn ids_and_their_policies_hold_in_a_transaction(open: impl AsyncFn() -> (Orders, Backend)) {
    let shop = Shop::open(open().await);
    let mails = shop.tasks.queue("mails");
    let submit = |order: &str, unique| {
        let submit = mails.submit(confirm(order)).with_id("id");
        submit.unique(unique)
    };
    submit("first", Unique::Same).await.unwrap();

    let mut transaction = shop.begin().await;
    for (order, unique) in [("first", Unique::Same), ("other", Unique::KeepFirst)] {
        let within = transaction.submit(submit(order, unique));
        assert_eq!(within.await.unwrap().as_str(), "id");
    }
    let within = transaction.submit(submit("other", Unique::Same));
    let error = within.await.unwrap_err();
    assert!(
        matches!(error, TaskError::OtherArguments { .. }),
        "{error:?}"
    );
    // The transaction sees its own task, and continues after an error.
    for order in ["own", "own", "foreign"] {
        let within = mails.submit(confirm(order)).with_id("own");
        let within = transaction.submit(within).await;
        assert_eq!(within.is_ok(), order == "own", "{within:?}");
    }
    for order in ["first", "own"] {
        transaction.insert(order).await;
    }
    transaction.commit().await;
    assert_eq!(shop.ids().await, ["id", "own"]);
    let worker = shop.tasks.work().unwrap();
    shop.is_confirmed("own").await;
    let output = soon(shop.tasks.output::<Confirm>(&"id".into())).await;
    assert_eq!(output.unwrap(), "first for nobody");
    worker.drain(Duration::from_secs(60)).await;
    assert_eq!(shop.orders().len(), 2, "{:?}", shop.orders());
}

async fn a_task_is_replaced_with_the_commit(open: impl AsyncFn() -> (Orders, Backend)) {
    let shop = Shop::open(open().await);
    let submit = |order: &str| {
        let submit = shop.tasks.queue("mails").submit(confirm(order));
        submit.with_id("id").unique(Unique::Replace)
    };
    submit("first").await.unwrap();
    for order in ["undone", "second"] {
        let mut transaction = shop.begin().await;
        transaction.insert(order).await;
        transaction.submit(submit(order)).await.unwrap();
        if order == "second" {
            transaction.commit().await;
        }
    }
    let _worker = shop.tasks.work().unwrap();
    let output = soon(shop.tasks.output::<Confirm>(&"id".into())).await;
    assert_eq!(output.unwrap(), "second for nobody");
    assert_eq!(shop.orders(), ["second"]);
}

async fn limits_hold_for_tasks_of_transactions(open: impl AsyncFn() -> (Orders, Backend)) {
    let shop = Shop::open(open().await);
    let mails = shop.tasks.queue("mails");
    let _worker = shop.tasks.work().unwrap();
    let mut ids = Vec::new();
    for round in 0..5 {
        let mut transaction = shop.begin().await;
        for number in 0..4 {
            let order = format!("{round}/{number}");
            transaction.insert(&order).await;
            let task = Confirm {
                order,
                customer: Some("ada".into()),
            };
            ids.push(transaction.submit(mails.submit(task)).await.unwrap());
        }
        transaction.commit().await;
    }
    for id in ids {
        // The task itself checks that it runs alone.
        soon(shop.tasks.output::<Confirm>(&id)).await.unwrap();
    }
    assert_eq!(shop.orders().len(), 20);
}

async fn a_task_submits_the_next_one_in_its_own_transaction(
    open: impl AsyncFn() -> (Orders, Backend),
) {
    let shop = Shop::open(open().await);
    let _worker = shop.tasks.work().unwrap();
    let order = shop.tasks.queue("orders").call(Order("tea".into()));
    let id = soon(order).await.unwrap();
    let output = soon(shop.tasks.output::<Confirm>(&id)).await.unwrap();
    assert_eq!(output, "tea for nobody");
    assert_eq!(shop.items().await, ["tea"]);
    assert_eq!(
        shop.ids().await.len(),
        2,
        "the first attempt leaves no task"
    );
    assert_eq!(shop.orders(), ["tea"]);
}

async fn a_submission_that_is_dropped_is_in_the_transaction_as_a_whole_or_not_at_all(
    open: impl AsyncFn() -> (Orders, Backend),
) {
    let shop = Shop::open(open().await);
    for polls in 0..50 {
        let order = format!("order {polls}");
        let mut transaction = shop.begin().await;
        transaction.insert(&order).await;
        let mut submitting = Box::pin(shop.confirm(&mut transaction, &order));
        for _ in 0..polls {
            if (&mut submitting).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(submitting);
        transaction.commit().await;
    }
    assert_eq!(shop.items().await.len(), 50, "no drop ends a transaction");
    let ids = shop.ids().await;
    assert!(!ids.contains(&"order 0".to_owned()), "it was never polled");
    let worker = shop.tasks.work().unwrap();
    for id in &ids {
        shop.is_confirmed(id).await;
    }
    worker.drain(Duration::from_secs(60)).await;
    assert_eq!(shop.ids().await, ids, "no envelope has no record");
}

async fn a_submission_that_fails_leaves_the_transaction_as_it_was(
    open: impl AsyncFn() -> (Orders, Backend),
) {
    let shop = Shop::open(open().await);
    let mut transaction = shop.begin().await;
    transaction.insert("tea").await;
    let large = confirm(&"x".repeat(1024 * 1024));
    let large = shop.tasks.queue("mails").submit(large);
    let error = transaction.submit(large).await.unwrap_err();
    assert!(matches!(error, TaskError::TooLarge { .. }), "{error:?}");
    let unknown = shop.tasks.queue("unknown").submit(confirm("tea"));
    let error = transaction.submit(unknown).await.unwrap_err();
    assert!(matches!(error, TaskError::UnknownQueue { .. }), "{error:?}");
    let broken = shop.tasks.queue("mails").submit(confirm("tea"));
    let broken = transaction.submit(broken.with_id("line\nbreak"));
    let error = broken.await.unwrap_err();
    assert!(chain(&error).contains("control character"), "{error:?}");
    transaction.commit().await;
    assert_eq!(shop.ids().await, Vec::<String>::new());
    assert_eq!(shop.items().await, ["tea"]);
}

async fn a_transaction_of_another_database_is_refused(open: impl AsyncFn() -> (Orders, Backend)) {
    let shop = Shop::open(open().await);
    let other = Shop::open(open().await);
    let mut transaction = other.begin().await;
    let error = shop.confirm(&mut transaction, "tea").await.unwrap_err();
    assert!(
        matches!(
            &error,
            TaskError::Backend {
                error: BackendError::Refused { .. },
                ..
            }
        ),
        "{error:?}"
    );
    let memory = tasks(Backend::memory(), &other.database, &other.confirmed);
    let submit = memory.queue("mails").submit(confirm("tea"));
    let error = transaction.submit(submit).await.unwrap_err();
    let expected =
        "tasks: backend failed: the backend does not support transactions of the application";
    assert_eq!(chain(&error), expected);
    transaction.commit().await;
    for shop in [shop, other] {
        assert_eq!(shop.ids().await, Vec::<String>::new());
    }
}
