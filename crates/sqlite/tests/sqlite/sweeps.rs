//! What has expired is deleted in parts.

use crate::database::{connect, number, place, until};
use sqlx::{AssertSqlSafe, raw_sql};
use std::cell::Cell;
use tower_promises_backend::Store;
use tower_promises_sqlite::SqliteDatabase;

/// The largest number of rows that a sweep deletes from a table.
const PART: i64 = 1000;

#[tokio::test]
async fn a_backlog_is_deleted_in_parts_after_several_writes() {
    for (left, row) in [
        (
            "SELECT count(*) FROM promises_store_entries WHERE expires = 1",
            "promises_store_entries (key, revision, expires, due, value) SELECT n, 1, 1, 1, x''",
        ),
        (
            "SELECT count(*) FROM promises_queue_envelopes",
            "promises_queue_envelopes (queue, id, priority, due, ended, payload)
                SELECT 'queue', n, 1, 1, 1, x''",
        ),
        // The newest message stays.
        (
            "SELECT count(*) - 1 FROM promises_bus_messages",
            "promises_bus_messages (published, topic, payload) SELECT 1, n, x''",
        ),
        (
            "SELECT count(*) - 1 FROM promises_store_log",
            "promises_store_log (changed, revision, key) SELECT 1, n, n",
        ),
    ] {
        let place = place();
        let store = SqliteDatabase::open(&place.path).await.unwrap().store();
        let insert = format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 3500)
            INSERT INTO {row} FROM numbers"
        );
        let mut connection = connect(&place.path).await;
        let insert = raw_sql(AssertSqlSafe(insert));
        insert.execute(&mut connection).await.unwrap();
        let before = Cell::new(number(&place.path, left).await);
        until("the backlog is deleted", async || {
            for _ in 0..64 {
                // At most one sweep follows a write.
                store.put("key", "x".into(), None).await.unwrap();
                let after = number(&place.path, left).await;
                let deleted = before.replace(after) - after;
                assert!(deleted <= PART, "{row}: {deleted} at once");
            }
            before.get() == 0
        })
        .await;
    }
}
