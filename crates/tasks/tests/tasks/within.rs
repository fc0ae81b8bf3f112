//! Tasks that are submitted in a transaction of the application: they exist if and only if it commits.

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{Connection, Sqlite, Transaction};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::eventually::{soon, until};
use test_support::task::chain;
use tower_promises_backend::{Backend, BackendError, Priority};
use tower_promises_sqlite::SqliteDatabase;
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
        let found = sqlx::query_scalar("SELECT count(*) FROM orders WHERE item = ?");
        let found: i64 = found
            .bind(&self.order)
            .fetch_one(context.state::<SqlitePool>()?)
            .await?;
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
        let pool: &SqlitePool = context.state()?;
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        insert(&mut transaction, &self.0).await?;
        let mails = context.tasks().queue("mails");
        let id = mails
            .submit(confirm(&self.0))
            .within(&mut *transaction)
            .await?;
        if context.attempt() == 1 {
            return Err(TaskFailure::conflict("another writer was faster"));
        }
        transaction.commit().await?;
        Ok(id)
    }
}

struct Shop {
    tasks: Tasks,
    pool: SqlitePool,
    confirmed: Confirmed,
    _directory: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shop.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .busy_timeout(Duration::from_secs(60))
            .create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(4);
        let pool = pool.connect_with(options).await.unwrap();
        let create = sqlx::query("CREATE TABLE orders (item TEXT NOT NULL)");
        create.execute(&pool).await.unwrap();
        let database = SqliteDatabase::builder(&path)
            .share_file(true)
            .busy_timeout(Duration::from_secs(60));
        let backend = database.open().await.unwrap().backend();
        let confirmed = Confirmed::default();
        Self {
            tasks: tasks(backend, &pool, &confirmed),
            pool,
            confirmed,
            _directory: directory,
        }
    }

    async fn begin(&self) -> Transaction<'static, Sqlite> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.unwrap()
    }

    async fn items(&self) -> Vec<String> {
        let items = sqlx::query_scalar("SELECT item FROM orders ORDER BY item");
        items.fetch_all(&self.pool).await.unwrap()
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
        transaction: &mut Transaction<'static, Sqlite>,
        order: &str,
    ) -> Result<TaskId, TaskError> {
        let submit = self.tasks.queue("mails").submit(confirm(order));
        submit.with_id(order).within(&mut **transaction).await
    }

    async fn is_confirmed(&self, order: &str) {
        let output = soon(self.tasks.output::<Confirm>(&order.into())).await;
        assert_eq!(output.unwrap(), format!("{order} for nobody"));
    }

    fn orders(&self) -> Vec<String> {
        self.confirmed.orders.lock().unwrap().clone()
    }
}

fn tasks(backend: Backend, pool: &SqlitePool, confirmed: &Confirmed) -> Tasks {
    let mails = TaskQueueOptions::new("mails").task::<Confirm>();
    let orders = TaskQueueOptions::new("orders").task::<Order>();
    Tasks::builder(backend)
        .queue(mails)
        .queue(orders)
        .state(pool.clone())
        .state(confirmed.clone())
        .build()
}

fn confirm(order: &str) -> Confirm {
    Confirm {
        order: order.into(),
        customer: None,
    }
}

async fn insert(connection: &mut sqlx::SqliteConnection, item: &str) -> sqlx::Result<()> {
    let insert = sqlx::query("INSERT INTO orders (item) VALUES (?)").bind(item);
    insert.execute(connection).await.map(drop)
}

#[tokio::test]
async fn a_task_exists_if_and_only_if_its_transaction_commits() {
    let shop = Shop::open().await;
    let _worker = shop.tasks.work().unwrap();
    for commits in [false, true, false, true] {
        let order = if commits { "tea" } else { "cake" };
        let item = format!("{order} {}", shop.ids().await.len());
        let mut transaction = shop.begin().await;
        insert(&mut transaction, &item).await.unwrap();
        let before = shop.ids().await;
        let id = shop.confirm(&mut transaction, &item).await.unwrap();
        let error = shop.tasks.status(&id).await.unwrap_err();
        assert!(matches!(error, TaskError::NotFound { .. }), "{error:?}");
        assert_eq!(shop.ids().await, before);
        if commits {
            transaction.commit().await.unwrap();
            // The task itself checks that it finds the order.
            shop.is_confirmed(&item).await;
        } else {
            transaction.rollback().await.unwrap();
            let error = shop.tasks.status(&id).await.unwrap_err();
            assert!(matches!(error, TaskError::NotFound { .. }), "{error:?}");
        }
    }
    assert_eq!(shop.ids().await, ["tea 0", "tea 1"]);
    assert_eq!(shop.items().await, ["tea 0", "tea 1"]);
    assert_eq!(shop.orders(), ["tea 0", "tea 1"]);
}

#[tokio::test]
async fn a_savepoint_that_is_rolled_back_takes_its_tasks_with_it() {
    let shop = Shop::open().await;
    let mut transaction = shop.begin().await;
    shop.confirm(&mut transaction, "before").await.unwrap();
    for commits in [false, true] {
        let order = if commits { "kept" } else { "undone" };
        let mut savepoint = transaction.begin().await.unwrap();
        insert(&mut savepoint, order).await.unwrap();
        let submit = shop.tasks.queue("mails").submit(confirm(order));
        submit.with_id(order).within(&mut *savepoint).await.unwrap();
        if commits {
            savepoint.commit().await.unwrap();
        } else {
            savepoint.rollback().await.unwrap();
        }
    }
    insert(&mut transaction, "before").await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(shop.ids().await, ["before", "kept"]);
    let _worker = shop.tasks.work().unwrap();
    shop.is_confirmed("before").await;
    shop.is_confirmed("kept").await;
}

#[tokio::test]
async fn a_task_in_a_transaction_has_all_settings_of_a_submission() {
    let shop = Shop::open().await;
    let mut transaction = shop.begin().await;
    for item in ["tea", "cake"] {
        insert(&mut transaction, item).await.unwrap();
    }
    let mails = shop.tasks.queue("mails");
    let ada = Principal::new("ada");
    let id = ada
        .scope(async {
            let submit = mails.submit(confirm("tea")).priority(Priority::High);
            let submit = submit.on_end("mails", confirm("cake"));
            let within = submit.within(&mut *transaction);
            let id = within.id().clone();
            assert_eq!(within.await.unwrap(), id);
            id
        })
        .await;
    let delayed = mails
        .submit(confirm("tea"))
        .delay(Duration::from_secs(3600))
        .within(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
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

#[tokio::test]
async fn ids_and_their_policies_hold_in_a_transaction() {
    let shop = Shop::open().await;
    let mails = shop.tasks.queue("mails");
    let submit = |order: &str, unique| {
        let submit = mails.submit(confirm(order)).with_id("id");
        submit.unique(unique)
    };
    submit("first", Unique::Same).await.unwrap();

    let mut transaction = shop.begin().await;
    for (order, unique) in [("first", Unique::Same), ("other", Unique::KeepFirst)] {
        let within = submit(order, unique).within(&mut *transaction);
        assert_eq!(within.await.unwrap().as_str(), "id");
    }
    let within = submit("other", Unique::Same).within(&mut *transaction);
    let error = within.await.unwrap_err();
    assert!(
        matches!(error, TaskError::OtherArguments { .. }),
        "{error:?}"
    );
    // The transaction sees its own task, and continues after an error.
    for order in ["own", "own", "foreign"] {
        let within = mails.submit(confirm(order)).with_id("own");
        let within = within.within(&mut *transaction).await;
        assert_eq!(within.is_ok(), order == "own", "{within:?}");
    }
    for order in ["first", "own"] {
        insert(&mut transaction, order).await.unwrap();
    }
    transaction.commit().await.unwrap();
    assert_eq!(shop.ids().await, ["id", "own"]);
    let worker = shop.tasks.work().unwrap();
    shop.is_confirmed("own").await;
    let output = soon(shop.tasks.output::<Confirm>(&"id".into())).await;
    assert_eq!(output.unwrap(), "first for nobody");
    worker.drain(Duration::from_secs(60)).await;
    assert_eq!(shop.orders().len(), 2, "{:?}", shop.orders());
}

#[tokio::test]
async fn a_task_is_replaced_with_the_commit() {
    let shop = Shop::open().await;
    let submit = |order: &str| {
        let submit = shop.tasks.queue("mails").submit(confirm(order));
        submit.with_id("id").unique(Unique::Replace)
    };
    submit("first").await.unwrap();
    for order in ["undone", "second"] {
        let mut transaction = shop.begin().await;
        insert(&mut transaction, order).await.unwrap();
        submit(order).within(&mut *transaction).await.unwrap();
        if order == "second" {
            transaction.commit().await.unwrap();
        }
    }
    let _worker = shop.tasks.work().unwrap();
    let output = soon(shop.tasks.output::<Confirm>(&"id".into())).await;
    assert_eq!(output.unwrap(), "second for nobody");
    assert_eq!(shop.orders(), ["second"]);
}

#[tokio::test]
async fn limits_hold_for_tasks_of_transactions() {
    let shop = Shop::open().await;
    let mails = shop.tasks.queue("mails");
    let _worker = shop.tasks.work().unwrap();
    let mut ids = Vec::new();
    for round in 0..5 {
        let mut transaction = shop.begin().await;
        for number in 0..4 {
            let order = format!("{round}/{number}");
            insert(&mut transaction, &order).await.unwrap();
            let task = Confirm {
                order,
                customer: Some("ada".into()),
            };
            let submit = mails.submit(task.clone()).within(&mut *transaction);
            ids.push(submit.await.unwrap());
        }
        transaction.commit().await.unwrap();
    }
    for id in ids {
        // The task itself checks that it runs alone.
        soon(shop.tasks.output::<Confirm>(&id)).await.unwrap();
    }
    assert_eq!(shop.orders().len(), 20);
}

#[tokio::test]
async fn a_task_submits_the_next_one_in_its_own_transaction() {
    let shop = Shop::open().await;
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

#[tokio::test]
async fn a_submission_that_is_dropped_is_in_the_transaction_as_a_whole_or_not_at_all() {
    let shop = Shop::open().await;
    for polls in 0..50 {
        let order = format!("order {polls}");
        let mut transaction = shop.begin().await;
        insert(&mut transaction, &order).await.unwrap();
        let mut submitting = Box::pin(shop.confirm(&mut transaction, &order));
        for _ in 0..polls {
            if (&mut submitting).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(submitting);
        transaction.commit().await.unwrap();
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

#[tokio::test]
async fn a_submission_that_fails_leaves_the_transaction_as_it_was() {
    let shop = Shop::open().await;
    let mut transaction = shop.begin().await;
    insert(&mut transaction, "tea").await.unwrap();
    let large = confirm(&"x".repeat(1024 * 1024));
    let large = shop.tasks.queue("mails").submit(large);
    let error = large.within(&mut *transaction).await.unwrap_err();
    assert!(matches!(error, TaskError::TooLarge { .. }), "{error:?}");
    let unknown = shop.tasks.queue("unknown").submit(confirm("tea"));
    let error = unknown.within(&mut *transaction).await.unwrap_err();
    assert!(matches!(error, TaskError::UnknownQueue { .. }), "{error:?}");
    let delayed = shop.tasks.queue("mails").submit(confirm("tea"));
    let error = delayed
        .with_id("line\nbreak")
        .within(&mut *transaction)
        .await
        .unwrap_err();
    assert!(chain(&error).contains("control character"), "{error:?}");
    transaction.commit().await.unwrap();
    assert_eq!(shop.ids().await, Vec::<String>::new());
    assert_eq!(shop.items().await, ["tea"]);
}

#[tokio::test]
async fn a_transaction_of_another_database_is_refused() {
    let shop = Shop::open().await;
    let other = Shop::open().await;
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
    let memory = tasks(Backend::memory(), &other.pool, &other.confirmed);
    let submit = memory.queue("mails").submit(confirm("tea"));
    let error = submit.within(&mut *transaction).await.unwrap_err();
    let expected =
        "tasks: backend failed: the backend does not support transactions of the application";
    assert_eq!(chain(&error), expected);
    transaction.commit().await.unwrap();
    for shop in [shop, other] {
        assert_eq!(shop.ids().await, Vec::<String>::new());
    }
}
