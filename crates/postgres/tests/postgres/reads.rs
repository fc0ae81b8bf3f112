//! Reads that share a statement.

use crate::place::{builder, eventually, place, soon};
use futures_util::future::{join, join_all};
use tower_promises_backend::Store;
use tower_promises_postgres::sqlx::postgres::{PgConnection, PgPool};
use tower_promises_postgres::sqlx::{Connection, query, query_scalar};

/// More than two statements read.
const READS: usize = 70;

const MEBIBYTE: i64 = 1024 * 1024;

/// The largest size of the values that a statement returns, in hexadecimal digits.
const LARGEST_ANSWER: i64 = 16 * MEBIBYTE;

/// Returns the numbers of keys of two statements that wait for a lock.
async fn keys_of_waiting_reads(pool: &PgPool) -> Vec<i64> {
    let keys = "SELECT (SELECT count(*) FROM regexp_matches(query, '''key-[0-9]+''', 'g'))
        FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%''key-%'";
    eventually("two statements wait", async || {
        let keys = query_scalar(keys).fetch_all(pool).await.unwrap();
        (keys.len() == 2).then_some(keys)
    })
    .await
}

/// The memory that the values of a statement take is bounded, whatever the largest size of a value.
#[tokio::test]
async fn a_statement_reads_many_small_values_and_few_large_ones() {
    let place = place().await;
    let pool = PgPool::connect(&place.url).await.unwrap();
    for (largest, expected) in [
        (1024, 32),
        (MEBIBYTE / 4, 32),
        (MEBIBYTE, 8),
        (4 * MEBIBYTE, 2),
        (64 * MEBIBYTE, 1),
    ] {
        let database = builder().max_value_bytes(usize::try_from(largest).unwrap());
        let store = database.connect(&place.url).await.unwrap().store();
        let keys: Vec<_> = (0..READS).map(|number| format!("key-{number}")).collect();
        for key in &keys[1..] {
            let value = format!("{key} of {largest}");
            store.put(key, value.into(), None).await.unwrap();
        }
        let mut other = PgConnection::connect(&place.url).await.unwrap();
        let mut locks = other.begin().await.unwrap();
        let lock = query("LOCK TABLE tower_promises.entries");
        lock.execute(&mut *locks).await.unwrap();
        let reads = join_all(keys.iter().map(|key| store.get(key)));
        let watching = async {
            let waiting = keys_of_waiting_reads(&pool).await;
            locks.rollback().await.unwrap();
            waiting
        };
        let (found, waiting) = soon(join(reads, watching)).await;
        for number in waiting {
            assert_eq!(number, expected, "values of up to {largest} bytes");
            assert!(number == 1 || number * largest * 2 <= LARGEST_ANSWER);
        }
        for (key, found) in keys.iter().zip(found) {
            let value = found.unwrap().map(|entry| entry.value);
            let put = (*key != keys[0]).then(|| format!("{key} of {largest}").into());
            assert_eq!(value, put, "{key}");
        }
    }
}
