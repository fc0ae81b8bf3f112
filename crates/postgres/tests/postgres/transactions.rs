//! The backend writes in transactions of an application that has the same database.

use crate::place::{NEVER, Place, SECOND, builder, place, soon, until};
use futures_util::FutureExt;
use tower_promises_backend::conformance::{self, Application};
use tower_promises_backend::{
    ApplicationConnection, Backend, BackendError, CompareAndSet, Enqueued, Envelope, Outcome,
    Queue, Store,
};
use tower_promises_postgres::sqlx::postgres::{PgConnection, PgPool, PgPoolOptions, Postgres};
use tower_promises_postgres::sqlx::{Connection, Transaction, query, query_scalar, raw_sql};

/// An application with a pool of connections to a database, and a table in it.
struct App {
    pool: PgPool,
}

impl App {
    async fn create(place: &Place) -> Self {
        let pool = PgPoolOptions::new().max_connections(20);
        let pool = pool.connect(&place.url).await.unwrap();
        let create = "CREATE TABLE IF NOT EXISTS orders (item text NOT NULL)";
        query(create).execute(&pool).await.unwrap();
        Self { pool }
    }

    async fn orders(&self) -> i64 {
        let count = query_scalar("SELECT count(*) FROM orders");
        count.fetch_one(&self.pool).await.unwrap()
    }
}

impl Application for App {
    type Transaction = Transaction<'static, Postgres>;

    async fn begin(&self) -> Self::Transaction {
        self.pool.begin().await.unwrap()
    }

    async fn execute(&self, transaction: &mut Self::Transaction, statement: &'static str) {
        raw_sql(statement)
            .execute(&mut **transaction)
            .await
            .unwrap();
    }

    async fn commit(&self, transaction: Self::Transaction) {
        transaction.commit().await.unwrap();
    }

    async fn rollback(&self, transaction: Self::Transaction) {
        transaction.rollback().await.unwrap();
    }
}

/// Writes a key, and an envelope with the key as its id, in a transaction.
async fn write<C: Send + 'static>(
    backend: &Backend,
    connection: &mut C,
    key: &str,
) -> Result<(), BackendError> {
    let connection = ApplicationConnection::new(connection);
    let mut joined = backend.join(connection).await?;
    let set = joined.compare_and_set(key, None, "value".into(), None);
    assert!(matches!(set.await?, CompareAndSet::Set(_)));
    joined
        .enqueue(Envelope::new("queue", key, "payload".into()))
        .await?;
    joined.finish().await
}

async fn refusal<C: Send + 'static>(backend: &Backend, connection: &mut C) -> String {
    let error = write(backend, connection, "key").await.unwrap_err();
    assert!(matches!(error, BackendError::Refused { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn transactions_conform_on_one_database() {
    let place = place().await;
    let app = App::create(&place).await;
    let backend = place.open().await.backend();
    conformance::transactions(async || backend.clone(), app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_conform_on_a_database_for_each_caller() {
    let place = place().await;
    let app = App::create(&place).await;
    conformance::transactions(async || place.open().await.backend(), app).await;
}

/// The application and the backend share a pool, and the transaction has its only connection.
#[tokio::test]
async fn a_transaction_needs_no_second_connection() {
    let place = place().await;
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(&place.url).await.unwrap();
    let database = builder().notify(false).open(pool.clone()).await.unwrap();
    let backend = database.backend();
    let mut transaction = soon(pool.begin()).await.unwrap();
    soon(write(&backend, &mut transaction, "key"))
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    assert!(soon(database.store().get("key")).await.unwrap().is_some());
}

#[tokio::test]
async fn all_forms_of_a_transaction_are_joined() {
    let place = place().await;
    let app = App::create(&place).await;
    let database = place.open().await;
    let backend = database.backend();
    let is_there = async || database.store().get("key").await.unwrap().is_some();

    let mut owned = app.pool.begin().await.unwrap();
    write(&backend, &mut owned, "key").await.unwrap();
    owned.rollback().await.unwrap();
    assert!(!is_there().await);

    let mut connection = PgConnection::connect(&place.url).await.unwrap();
    let mut borrowed = connection.begin().await.unwrap();
    {
        let mut nested = borrowed.begin().await.unwrap();
        write(&backend, &mut *nested, "key").await.unwrap();
        nested.rollback().await.unwrap();
    }
    let mut nested = borrowed.begin().await.unwrap();
    write(&backend, &mut *nested, "key").await.unwrap();
    nested.commit().await.unwrap();
    assert!(!is_there().await);
    borrowed.commit().await.unwrap();
    assert!(is_there().await);
}

#[tokio::test]
async fn a_connection_that_cannot_be_used_is_refused() {
    let place = place().await;
    let app = App::create(&place).await;
    let backend = place.open().await.backend();

    let mut connection = PgConnection::connect(&place.url).await.unwrap();
    let error = refusal(&backend, &mut connection).await;
    assert!(
        error.contains("has no transaction that was begun"),
        "{error}"
    );

    // A database without the schema, and one with a schema of the same name.
    let other = crate::place::place().await;
    for _ in 0..2 {
        let mut connection = PgConnection::connect(&other.url).await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        let error = refusal(&backend, &mut *transaction).await;
        assert!(error.contains("is to another database"), "{error}");
        query("SELECT 1")
            .execute(&mut *transaction)
            .await
            .expect("the transaction can be continued");
        transaction.commit().await.unwrap();
        drop(other.open().await);
    }

    let mut transaction = app.begin().await;
    write(&backend, &mut transaction, "key").await.unwrap();
    app.commit(transaction).await;
}

/// A crash of the application before the commit.
#[tokio::test]
async fn nothing_remains_of_a_transaction_whose_connection_is_lost() {
    let place = place().await;
    let app = App::create(&place).await;
    let database = place.open().await;
    let mut connection = PgConnection::connect(&place.url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let order = "INSERT INTO orders (item) VALUES ('tea') RETURNING pg_backend_pid()";
    let process: i32 = query_scalar(order)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    write(&database.backend(), &mut *transaction, "key")
        .await
        .unwrap();
    let kill = query("SELECT pg_terminate_backend($1)").bind(process);
    kill.execute(&app.pool).await.unwrap();
    transaction.commit().await.unwrap_err();

    assert_eq!(app.orders().await, 0);
    assert_eq!(database.store().get("key").await.unwrap(), None);
    // The same key and id are free again, as soon as the server has noticed.
    let mut transaction = app.begin().await;
    soon(write(&database.backend(), &mut transaction, "key"))
        .await
        .unwrap();
    app.commit(transaction).await;
    let taken = soon(database.queue().take("queue", 1, NEVER))
        .await
        .unwrap();
    assert_eq!(&*taken[0].id, "key");
}

#[tokio::test]
async fn only_writes_of_the_same_key_wait_for_the_end_of_a_transaction() {
    let place = place().await;
    let app = App::create(&place).await;
    let database = place.open().await;
    let mut transaction = app.begin().await;
    write(&database.backend(), &mut transaction, "key")
        .await
        .unwrap();
    let store = database.store();
    soon(store.put("other", "x".into(), None)).await.unwrap();
    let mut put = Box::pin(store.put("key", "x".into(), None));
    for _ in 0..20 {
        assert!((&mut put).now_or_never().is_none());
        tokio::time::sleep(SECOND / 100).await;
    }
    // Other calls of the process go on meanwhile.
    soon(store.put("other", "y".into(), None)).await.unwrap();
    app.commit(transaction).await;
    let revision = soon(put).await.unwrap();
    let entry = store.get("key").await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (revision, &b"x"[..]));
}

/// Another process that does not know of the transaction enqueues the same id.
#[tokio::test]
async fn an_id_that_is_enqueued_meanwhile_is_a_conflict() {
    let place = place().await;
    let app = App::create(&place).await;
    let database = place.open().await;
    let backend = database.backend();
    let mut transaction = app.begin().await;
    let mut joined = backend
        .join(ApplicationConnection::new(&mut transaction))
        .await
        .unwrap();
    let envelope = Envelope::new("queue", "id", "transaction".into());
    assert_eq!(
        joined.enqueue(envelope.clone()).await.unwrap(),
        Enqueued::Added
    );
    let other = Envelope::new("queue", "id", "other".into());
    let added = database.queue().enqueue(other).await.unwrap();
    assert_eq!(added, Enqueued::Added);
    let error = joined.finish().await.unwrap_err();
    assert!(matches!(error, BackendError::Conflict { .. }), "{error:?}");
    app.rollback(transaction).await;

    let mut transaction = app.begin().await;
    let mut joined = backend
        .join(ApplicationConnection::new(&mut transaction))
        .await
        .unwrap();
    assert_eq!(joined.enqueue(envelope).await.unwrap(), Enqueued::Duplicate);
    drop(joined);
    app.commit(transaction).await;
}

/// The notification is sent with the commit.
#[tokio::test]
async fn workers_and_listeners_are_woken_by_the_commit() {
    let place = place().await;
    let app = App::create(&place).await;
    let (here, there) = (place.open().await, place.open().await);
    let worker = tokio::spawn({
        let queue = there.queue();
        async move { queue.take("queue", 1, NEVER).await }
    });
    let mut transaction = app.begin().await;
    query("INSERT INTO orders (item) VALUES ('tea')")
        .execute(&mut *transaction)
        .await
        .unwrap();
    write(&here.backend(), &mut transaction, "key")
        .await
        .unwrap();
    tokio::time::sleep(SECOND / 10).await;
    assert!(!worker.is_finished(), "nothing is taken before the commit");
    app.commit(transaction).await;
    let taken = soon(worker).await.unwrap().unwrap();
    assert_eq!(&*taken[0].id, "key");
    assert_eq!(app.orders().await, 1);
    let receipt = &taken[0].receipt;
    assert!(there.queue().settle(receipt, Outcome::Done).await.unwrap());
    until("the key is there", async || {
        there.store().get("key").await.unwrap().is_some()
    })
    .await;
}
