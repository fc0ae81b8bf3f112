//! The backend writes in transactions of an application that shares its file.

use crate::database::{Place, SECOND, chain, connect, number, place, soon};
use futures_util::FutureExt;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Connection, Transaction, query, query_scalar, raw_sql};
use std::time::Duration;
use tower_promises_backend::conformance::{self, Application};
use tower_promises_backend::{
    ApplicationConnection, Backend, BackendError, CompareAndSet, Envelope, Queue, Store,
};
use tower_promises_sqlite::SqliteDatabase;

/// An application with a pool of connections to a file, and the statement that begins its transactions.
struct App {
    pool: SqlitePool,
    begin: &'static str,
}

impl App {
    /// Creates the file, with a table of the application.
    async fn create(place: &Place, begin: &'static str) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(&place.path)
            .busy_timeout(Duration::from_secs(60))
            .create_if_missing(true);
        let pool = SqlitePoolOptions::new().max_connections(20);
        let pool = pool.connect_with(options).await.unwrap();
        let create = "CREATE TABLE IF NOT EXISTS orders (item TEXT NOT NULL)";
        query(create).execute(&pool).await.unwrap();
        Self { pool, begin }
    }
}

impl Application for App {
    type Transaction = Transaction<'static, Sqlite>;

    async fn begin(&self) -> Self::Transaction {
        self.pool.begin_with(self.begin).await.unwrap()
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

async fn open(place: &Place) -> SqliteDatabase {
    let database = SqliteDatabase::builder(&place.path).share_file(true);
    database.open().await.unwrap()
}

/// Writes the key `key` and an envelope in a transaction.
async fn write<C: Send + 'static>(
    backend: &Backend,
    connection: &mut C,
) -> Result<(), BackendError> {
    let connection = ApplicationConnection::new(connection);
    let mut joined = backend.join(connection).await?;
    let set = joined.compare_and_set("key", None, "value".into(), None);
    assert!(matches!(set.await?, CompareAndSet::Set(_)));
    joined
        .enqueue(Envelope::new("queue", "id", "payload".into()))
        .await?;
    joined.finish().await
}

async fn refusal<C: Send + 'static>(backend: &Backend, connection: &mut C) -> String {
    let error = write(backend, connection).await.unwrap_err();
    assert!(matches!(error, BackendError::Refused { .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn transactions_conform_on_one_database() {
    let place = place();
    let app = App::create(&place, "BEGIN IMMEDIATE").await;
    let backend = open(&place).await.backend();
    conformance::transactions(async || backend.clone(), app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_conform_on_a_database_for_each_caller() {
    let place = place();
    let app = App::create(&place, "BEGIN IMMEDIATE").await;
    conformance::transactions(async || open(&place).await.backend(), app).await;
}

/// A transaction that begins with a write waits for others, even if it is deferred.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transactions_conform_if_they_are_deferred() {
    let place = place();
    let app = App::create(&place, "BEGIN").await;
    conformance::transactions(async || open(&place).await.backend(), app).await;
}

#[tokio::test]
async fn all_forms_of_a_transaction_are_joined() {
    let place = place();
    let app = App::create(&place, "BEGIN").await;
    let database = open(&place).await;
    let backend = database.backend();
    let is_there = async || database.store().get("key").await.unwrap().is_some();

    let mut owned = app.pool.begin().await.unwrap();
    write(&backend, &mut owned).await.unwrap();
    owned.rollback().await.unwrap();
    assert!(!is_there().await);

    let mut connection = connect(&place.path).await;
    let mut borrowed = connection.begin().await.unwrap();
    {
        let mut nested = borrowed.begin().await.unwrap();
        write(&backend, &mut *nested).await.unwrap();
        nested.rollback().await.unwrap();
    }
    let mut nested = borrowed.begin().await.unwrap();
    write(&backend, &mut *nested).await.unwrap();
    nested.commit().await.unwrap();
    borrowed.commit().await.unwrap();
    assert!(is_there().await);
}

#[tokio::test]
async fn a_connection_that_cannot_be_used_is_refused() {
    let place = place();
    let app = App::create(&place, "BEGIN").await;
    let backend = open(&place).await.backend();
    let path = place.path.display().to_string();

    let mut connection = connect(&place.path).await;
    let error = refusal(&backend, &mut connection).await;
    assert!(
        error.contains("has no transaction that was begun"),
        "{error}"
    );
    // A commit of sqlx would end a transaction that it has not begun.
    raw_sql("BEGIN").execute(&mut connection).await.unwrap();
    let error = refusal(&backend, &mut connection).await;
    assert!(
        error.contains("has no transaction that was begun"),
        "{error}"
    );
    raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();

    let other = place.directory.path().join("other.db");
    let mut connection = connect(&other).await;
    let mut transaction = connection.begin().await.unwrap();
    let error = refusal(&backend, &mut *transaction).await;
    let expected = format!("the connection is to another file than {path}");
    assert!(error.contains(&expected), "{error}");
    transaction.rollback().await.unwrap();

    let attach = format!("ATTACH '{path}' AS shared");
    let attach = raw_sql(AssertSqlSafe(attach));
    attach.execute(&mut connection).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let error = refusal(&backend, &mut *transaction).await;
    assert!(error.contains("is attached to the connection"), "{error}");
    drop(transaction);

    let mut memory = sqlx::SqliteConnection::connect("sqlite::memory:")
        .await
        .unwrap();
    let mut transaction = memory.begin().await.unwrap();
    let error = refusal(&backend, &mut *transaction).await;
    assert!(error.contains(&expected), "{error}");

    let mut transaction = app.pool.begin().await.unwrap();
    let error = Backend::memory()
        .join(ApplicationConnection::new(&mut transaction))
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(error, BackendError::Unsupported { .. }),
        "{error:?}"
    );
    write(&backend, &mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_has_read_old_data_gets_a_conflict_and_can_be_repeated() {
    let place = place();
    let app = App::create(&place, "BEGIN").await;
    let database = open(&place).await;
    let backend = database.backend();
    let mut transaction = app.pool.begin().await.unwrap();
    let count: i64 = query_scalar("SELECT count(*) FROM orders")
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    assert_eq!(count, 0);
    database
        .store()
        .put("other", "x".into(), None)
        .await
        .unwrap();

    let error = write(&backend, &mut transaction).await.unwrap_err();
    assert!(matches!(error, BackendError::Conflict { .. }), "{error:?}");
    let error = chain(&error);
    assert!(error.contains("begin it with `BEGIN IMMEDIATE`"), "{error}");
    assert!(error.contains("database is locked"), "{error}");
    transaction.rollback().await.unwrap();

    let mut transaction = app.pool.begin().await.unwrap();
    write(&backend, &mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert!(database.store().get("key").await.unwrap().is_some());
}

#[tokio::test]
async fn other_writes_wait_for_the_end_of_a_transaction() {
    let place = place();
    let app = App::create(&place, "BEGIN IMMEDIATE").await;
    let database = SqliteDatabase::builder(&place.path)
        .share_file(true)
        .busy_timeout(60 * SECOND);
    let database = database.open().await.unwrap();
    let mut transaction = app.begin().await;
    write(&database.backend(), &mut transaction).await.unwrap();
    let store = database.store();
    let mut put = Box::pin(store.put("key", "later".into(), None));
    assert!((&mut put).now_or_never().is_none());
    assert!(store.get("key").await.unwrap().is_none());
    transaction.commit().await.unwrap();
    let revision = soon(put).await.unwrap();
    assert_eq!(revision.get(), 2);
    let entry = store.get("key").await.unwrap().unwrap();
    assert_eq!(
        (&entry.value[..], entry.revision),
        (&b"later"[..], revision)
    );
}

#[tokio::test]
async fn the_file_of_an_application_is_shared_if_both_want_it() {
    let place = place();
    let app = App::create(&place, "BEGIN IMMEDIATE").await;
    for header in ["PRAGMA application_id = 5", "PRAGMA user_version = 7"] {
        raw_sql(header).execute(&app.pool).await.unwrap();
    }
    query("INSERT INTO orders (item) VALUES ('tea')")
        .execute(&app.pool)
        .await
        .unwrap();
    let refused = SqliteDatabase::open(&place.path).await.unwrap_err();
    assert!(chain(&refused).contains("share_file"));

    drop(open(&place).await);
    let database = open(&place).await;
    database.store().put("key", "x".into(), None).await.unwrap();
    let refused = SqliteDatabase::open(&place.path).await.unwrap_err();
    assert!(chain(&refused).contains("share_file"));
    for (pragma, expected) in [("PRAGMA application_id", 5), ("PRAGMA user_version", 7)] {
        assert_eq!(number(&place.path, pragma).await, expected);
    }
    assert_eq!(number(&place.path, "SELECT count(*) FROM orders").await, 1);
    let names = "SELECT count(*) FROM sqlite_schema
        WHERE name NOT LIKE 'promises\\_%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    assert_eq!(
        number(&place.path, names).await,
        1,
        "all names have a prefix"
    );

    // A file of this crate can get tables of an application later.
    let own = crate::database::place();
    drop(SqliteDatabase::open(&own.path).await.unwrap());
    let app = App::create(&own, "BEGIN").await;
    for is_shared in [false, true] {
        let database = SqliteDatabase::builder(&own.path).share_file(is_shared);
        let backend = database.open().await.unwrap().backend();
        let mut transaction = app.begin().await;
        write(&backend, &mut transaction).await.unwrap();
        transaction.rollback().await.unwrap();
    }
}

/// A worker of the same process finds an envelope soon after the commit, with the poll interval as the bound.
#[tokio::test]
async fn a_worker_finds_an_envelope_without_a_write_of_this_process() {
    let place = place();
    let app = App::create(&place, "BEGIN IMMEDIATE").await;
    let database = open(&place).await;
    let queue = database.queue();
    let mut taking = Box::pin(queue.take("queue", 1, 60 * SECOND));
    assert!((&mut taking).now_or_never().is_none());
    let mut transaction = app.begin().await;
    write(&database.backend(), &mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let taken = soon(taking).await.unwrap();
    assert_eq!(&*taken[0].id, "id");
}
