//! The log of changes, the ends of times to live, and files of the version that logged all changes.

use crate::database::{NEVER, Place, SECOND, connect, number, place, see, until};
use sqlx::{AssertSqlSafe, Connection, raw_sql};
use std::time::Duration;
use tower_promises_backend::{Change, CompareAndSet, Store};
use tower_promises_sqlite::SqliteDatabase;

const LOGGED: &str = "SELECT count(*) FROM promises_store_log WHERE key <> ''";

async fn execute(place: &Place, sql: &str) {
    let mut connection = connect(&place.path).await;
    let sql = raw_sql(AssertSqlSafe(sql.to_owned()));
    sql.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn changes_are_logged_while_a_process_watches() {
    let place = place();
    let here = SqliteDatabase::open(&place.path).await.unwrap().store();
    let there = SqliteDatabase::open(&place.path).await.unwrap().store();
    here.put("key", "1".into(), None).await.unwrap();
    assert_eq!(number(&place.path, LOGGED).await, 0);
    let mut watch = there.watch("").await.unwrap();
    let revision = here.put("key", "2".into(), None).await.unwrap();
    assert_eq!(number(&place.path, LOGGED).await, 1);
    let Change::Put { entry, .. } = see(&mut watch).await else {
        panic!("a value was set");
    };
    assert_eq!((&entry.value[..], entry.revision), (&b"2"[..], revision));
}

/// A process that was stopped for too long has not asked for the log.
#[tokio::test]
async fn a_watcher_learns_that_changes_were_not_logged() {
    let place = place();
    let database = SqliteDatabase::builder(&place.path).poll_interval(NEVER);
    let store = database.open().await.unwrap().store();
    let mut watch = store.watch("").await.unwrap();
    store.put("key", "1".into(), None).await.unwrap();
    assert!(matches!(see(&mut watch).await, Change::Put { .. }));
    execute(&place, "UPDATE promises_store_state SET watched = 1").await;
    store.put("key", "2".into(), None).await.unwrap();
    assert_eq!(number(&place.path, LOGGED).await, 1);
    let mut other = store.watch("").await.unwrap();
    let third = store.put("key", "3".into(), None).await.unwrap();
    assert!(matches!(see(&mut watch).await, Change::Lagged(1)));
    for watch in [&mut watch, &mut other] {
        let Change::Put { entry, .. } = see(watch).await else {
            panic!("later changes are logged");
        };
        assert_eq!(entry.revision, third);
    }
}

/// Writes so often that a sweep follows.
async fn sweep(store: &impl Store) {
    for _ in 0..64 {
        store.put("sweep", "x".into(), None).await.unwrap();
    }
}

#[tokio::test]
async fn a_sweep_follows_times_to_live_that_change() {
    const SHORT: Duration = Duration::from_millis(50);
    let place = place();
    let store = SqliteDatabase::open(&place.path).await.unwrap().store();
    let put = async |key, time_to_live| {
        store.put(key, "x".into(), time_to_live).await.unwrap();
    };
    for (key, before, after) in [
        ("longer", Some(SHORT), Some(NEVER)),
        ("without an end", Some(SHORT), None),
        ("shorter", Some(NEVER), Some(SHORT)),
        ("with an end", None, Some(SHORT)),
        ("a little shorter", Some(SECOND / 2), Some(SHORT)),
    ] {
        put(key, before).await;
        put(key, after).await;
    }
    until("the sweep ends", async || {
        sweep(&store).await;
        let entries = "SELECT count(*) FROM promises_store_entries WHERE key <> 'sweep'";
        number(&place.path, entries).await == 2
    })
    .await;
    for key in ["longer", "without an end"] {
        assert!(store.get(key).await.unwrap().is_some(), "{key}");
    }
    let due = "SELECT count(*) FROM promises_store_entries
        WHERE due <= (SELECT milliseconds FROM promises_now)";
    until("no entry is due", async || {
        sweep(&store).await;
        number(&place.path, due).await == 0
    })
    .await;
}

/// A file of version 5, in which statements were executed.
async fn version_5(statements: &'static str) -> Place {
    let place = place();
    execute(&place, include_str!("database/version_5.sql")).await;
    let version = "PRAGMA application_id = 0x746f7072; PRAGMA user_version = 5;";
    execute(&place, version).await;
    execute(&place, statements).await;
    place
}

#[tokio::test]
async fn a_file_that_logged_all_changes_is_migrated() {
    let place = version_5(
        "INSERT INTO promises_store_entries (key, revision, value) VALUES ('kept', 1, x'6b657074');
        INSERT INTO promises_store_entries (key, revision, expires, value) VALUES ('old', 2, 3, x'');
        INSERT INTO promises_store_entries (key, revision, value) VALUES ('deleted', 3, x'');
        DELETE FROM promises_store_entries WHERE key = 'deleted';",
    )
    .await;
    let store = SqliteDatabase::open(&place.path).await.unwrap().store();
    let entry = store.get("kept").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision.get()), (&b"kept"[..], 1));
    assert!(store.get("old").await.unwrap().is_none());
    let again = store.put("deleted", "x".into(), None).await.unwrap();
    assert!(again.get() > 4, "the deletion had revision 4: {again}");
    let set = store.compare_and_set("kept", Some(entry.revision), "new".into(), None);
    assert!(matches!(set.await.unwrap(), CompareAndSet::Set(_)));
    until("the sweep ends", async || {
        sweep(&store).await;
        let old = "SELECT count(*) FROM promises_store_entries WHERE key = 'old'";
        number(&place.path, old).await == 0
    })
    .await;

    let new = crate::database::place();
    drop(SqliteDatabase::open(&new.path).await.unwrap());
    assert_eq!(schema(&place).await, schema(&new).await);
}

/// Returns the statements that have created the tables, indexes, views and triggers, with the same white space.
async fn schema(place: &Place) -> Vec<String> {
    let mut connection = connect(&place.path).await;
    let created = "SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name";
    let created = sqlx::query_scalar::<_, String>(created).fetch_all(&mut connection);
    let words = |sql: String| sql.split_whitespace().collect::<Vec<_>>().join(" ");
    created.await.unwrap().into_iter().map(words).collect()
}

#[tokio::test]
async fn an_invalid_view_of_the_application_does_not_prevent_a_migration() {
    let place = version_5(
        "INSERT INTO promises_store_entries (key, revision, value) VALUES ('kept', 1, x'6b657074');
        CREATE TABLE dropped (x); CREATE VIEW invalid AS SELECT x FROM dropped; DROP TABLE dropped;",
    )
    .await;
    let database = SqliteDatabase::builder(&place.path).share_file(true).open();
    let store = database.await.unwrap().store();
    assert!(store.get("kept").await.unwrap().is_some());
}
