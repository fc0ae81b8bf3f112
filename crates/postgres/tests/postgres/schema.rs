//! The schema: who creates it, its name, its version.

use crate::place::{builder, chain, place, soon};
use std::sync::Arc;
use test_support::postgres::shared;
use test_support::remote::Process;
use tower_promises_backend::{BackendError, Bus, Store};
use tower_promises_postgres::PostgresDatabase;
use tower_promises_postgres::sqlx::postgres::PgPoolOptions;
use tower_promises_postgres::sqlx::{AssertSqlSafe, Row, query, query_scalar};

async fn refusal(opened: impl Future<Output = Result<PostgresDatabase, BackendError>>) -> String {
    let error = soon(opened).await.unwrap_err();
    assert!(
        matches!(error, BackendError::Unavailable { .. }),
        "{error:?}"
    );
    chain(&error)
}

/// Processes that create the same schema at the same time do not disturb each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_processes_can_create_the_schema_at_once() {
    for _ in 0..3 {
        let place = Arc::new(place().await);
        let tasks: Vec<_> = (0..16)
            .map(|number| {
                let place = place.clone();
                tokio::spawn(async move {
                    let key = number.to_string();
                    if number % 4 == 0 {
                        let url = place.url.clone();
                        let start = tokio::task::spawn_blocking(move || Process::start(&url));
                        let process = start.await.unwrap();
                        process.adapter().put(&key, "x".into(), None).await.unwrap()
                    } else {
                        let store = place.open().await.store();
                        store.put(&key, "x".into(), None).await.unwrap()
                    }
                })
            })
            .collect();
        let mut revisions = Vec::new();
        for task in tasks {
            revisions.push(task.await.unwrap().get());
        }
        revisions.sort_unstable();
        assert_eq!(revisions, (1..=16).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn schemas_share_nothing() {
    let place = place().await;
    let one = builder().schema("one").connect(&place.url).await.unwrap();
    let other = builder()
        .schema("other_1")
        .connect(&place.url)
        .await
        .unwrap();
    let mut listener = other.bus().listen().await.unwrap();
    one.store().put("key", "x".into(), None).await.unwrap();
    assert_eq!(other.store().get("key").await.unwrap(), None);
    let bus = one.bus();
    tower_promises_backend::Bus::publish(&bus, "topic", "one".into())
        .await
        .unwrap();
    let bus = other.bus();
    tower_promises_backend::Bus::publish(&bus, "topic", "other".into())
        .await
        .unwrap();
    assert_eq!(
        crate::place::hear(&mut listener).await,
        crate::place::message("topic", "other")
    );
}

#[tokio::test]
async fn a_name_that_is_no_schema_is_refused() {
    let place = place().await;
    let long = "a".repeat(64);
    for name in ["", "Upper", "1st", "a-b", "a\"b", "pg_work", "größe", &long] {
        let text = refusal(builder().schema(name).connect(&place.url)).await;
        assert!(text.contains("is no name of a schema"), "{name}: {text}");
    }
    let longest = "a".repeat(63);
    let opened = builder()
        .schema(&longest)
        .connect(&place.url)
        .await
        .unwrap();
    // The name is also that of the channel of notifications.
    let queue = opened.queue();
    drop(queue);
}

#[tokio::test]
async fn a_schema_of_a_newer_program_is_refused() {
    let place = place().await;
    drop(place.open().await);
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let newer = query("UPDATE tower_promises.version SET number = 1000");
    newer.execute(&pool).await.unwrap();
    let text = refusal(builder().connect(&place.url)).await;
    assert!(
        text.starts_with("the backend is not available: cannot open the schema `tower_promises`"),
        "{text}"
    );
    assert!(text.contains("the schema has version 1000"), "{text}");
    assert!(text.contains("deploy a newer program"), "{text}");
}

#[tokio::test]
async fn a_role_without_permissions_can_use_a_schema_that_exists() {
    let place = place().await;
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let name = place.url.rsplit('/').next().unwrap();
    let role = format!("guest_of_{name}");
    let url = place.url.replace("test@", &format!("{role}@"));
    for sql in [
        format!("CREATE ROLE {role} LOGIN"),
        format!("REVOKE CREATE ON DATABASE {name} FROM PUBLIC"),
    ] {
        query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
    let text = refusal(builder().connect(&url)).await;
    assert!(text.contains("the role lacks a permission"), "{text}");
    assert!(text.contains("permission denied for database"), "{text}");

    drop(place.open().await);
    for sql in [
        format!("GRANT USAGE ON SCHEMA tower_promises TO {role}"),
        format!("GRANT ALL ON ALL TABLES IN SCHEMA tower_promises TO {role}"),
        format!("GRANT ALL ON ALL SEQUENCES IN SCHEMA tower_promises TO {role}"),
    ] {
        query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
    let store = builder().connect(&url).await.unwrap().store();
    store.put("key", "x".into(), None).await.unwrap();
    assert!(store.get("key").await.unwrap().is_some());
}

#[tokio::test]
async fn a_database_that_stores_no_unicode_is_refused() {
    let server = shared().await;
    let name = "latin";
    let create = format!("CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    server.execute(&create).await;
    let text = refusal(builder().connect(&server.url_of(name))).await;
    assert!(text.contains("create it with the encoding UTF8"), "{text}");
}

#[tokio::test]
async fn a_read_only_database_is_refused_and_says_so_later_too() {
    let place = place().await;
    let store = place.open().await.store();
    let read_only = format!("{}?options=-cdefault_transaction_read_only%3Don", place.url);
    let text = refusal(builder().connect(&read_only)).await;
    assert!(text.contains("connect to the primary server"), "{text}");

    // The server becomes a replica, or an administrator stops all writes.
    let name = place.url.rsplit('/').next().unwrap();
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let alter = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    query(AssertSqlSafe(alter)).execute(&pool).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    query(end).execute(&pool).await.unwrap();
    let error = crate::place::eventually("a read-only connection", async || {
        let put = store.put("key", "x".into(), None).await;
        put.err()
            .map(|error| chain(&error))
            .filter(|text| text.contains("read-only"))
    })
    .await;
    assert!(error.contains("connect to the primary server"), "{error}");
    assert_eq!(store.get("key").await.unwrap(), None);
}

#[tokio::test]
async fn a_schema_that_was_dropped_is_an_error_that_says_so() {
    let place = place().await;
    let store = place.open().await.store();
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    query("DROP SCHEMA tower_promises CASCADE")
        .execute(&pool)
        .await
        .unwrap();
    let error = store.put("key", "x".into(), None).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("connect again to create it"), "{text}");
    drop(place.open().await);
    store.put("key", "x".into(), None).await.unwrap();
}

/// Everything that the adapters create is in the schema.
#[tokio::test]
async fn nothing_is_created_outside_of_the_schema() {
    let place = place().await;
    let pool = PgPoolOptions::new().connect(&place.url).await.unwrap();
    let count = "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace NOT IN (
            SELECT oid FROM pg_namespace WHERE nspname IN ('tower_promises', 'pg_toast')
        )) + (SELECT count(*) FROM pg_proc WHERE pronamespace <> coalesce(to_regnamespace('tower_promises'), 0))";
    let before: i64 = query_scalar(count).fetch_one(&pool).await.unwrap();
    drop(place.open().await);
    let after: i64 = query_scalar(count).fetch_one(&pool).await.unwrap();
    assert_eq!(before, after);
    let row = query("SELECT number FROM tower_promises.version")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(row.get::<i32, _>(0), 1);
}
