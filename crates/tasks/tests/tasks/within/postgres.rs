//! What only a server shows: transactions beside each other, and connections and processes that are gone before the
//! commit.

use super::{Shop, orders, soon, until};
use std::future::pending;
use test_support::child::{ChildProcess, end_with_parent};
use test_support::postgres::shared;

/// The environment variables of the other process: its database, and whether it commits.
const ADDRESS: &str = "TEST_SHOP_DATABASE";
const COMMITS: &str = "TEST_SHOP_COMMITS";

#[tokio::test]
async fn a_worker_gets_a_task_only_after_the_commit() {
    let shop = Shop::open(orders::on_postgresql().await);
    let _worker = shop.tasks.work().unwrap();
    let mut early = shop.begin().await;
    early.insert("early").await;
    shop.confirm(&mut early, "early").await.unwrap();
    let mut late = shop.begin().await;
    late.insert("late").await;
    shop.confirm(&mut late, "late").await.unwrap();
    late.commit().await;
    shop.is_confirmed("late").await;
    assert_eq!(shop.orders(), ["late"]);
    early.commit().await;
    shop.is_confirmed("early").await;
    assert_eq!(shop.orders(), ["late", "early"]);
}

#[tokio::test]
async fn a_connection_that_is_lost_before_the_commit_leaves_no_task() {
    let server = shared().await;
    let shop = Shop::open(orders::at(&server.database().await).await);
    let _worker = shop.tasks.work().unwrap();
    for is_lost in [true, false] {
        let mut transaction = shop.begin().await;
        transaction.insert("tea").await;
        shop.confirm(&mut transaction, "tea").await.unwrap();
        if is_lost {
            let process = transaction.process().await;
            let end = format!("SELECT pg_terminate_backend({process})");
            server.execute(&end).await;
            assert!(transaction.try_commit().await.is_err());
            assert_eq!(shop.ids().await, Vec::<String>::new());
        } else {
            // The id of the lost task is free.
            transaction.commit().await;
        }
    }
    shop.is_confirmed("tea").await;
    assert_eq!(shop.items().await, ["tea"]);
    assert_eq!(shop.orders(), ["tea"]);
}

/// Starts another process, which submits a task in a transaction and then waits.
fn process(url: &str, commits: bool) -> ChildProcess {
    let test = "within::postgres::the_other_process";
    let commits = commits.to_string();
    let environment = [(ADDRESS, url), (COMMITS, &*commits)];
    ChildProcess::start(test, environment, "it has submitted the task").0
}

#[tokio::test]
#[ignore = "other tests start it as a process of its own"]
async fn the_other_process() {
    let url = std::env::var(ADDRESS).expect("other tests start this one with a database");
    end_with_parent();
    let shop = Shop::open(orders::at(&url).await);
    let mut transaction = shop.begin().await;
    transaction.insert("tea").await;
    shop.confirm(&mut transaction, "tea").await.unwrap();
    let open = if std::env::var(COMMITS).as_deref() == Ok("true") {
        transaction.commit().await;
        None
    } else {
        Some(transaction)
    };
    println!("it has submitted the task");
    pending::<()>().await;
    drop(open);
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_a_task_only_after_its_commit() {
    let url = shared().await.database().await;
    let shop = Shop::open(orders::at(&url).await);
    let _worker = shop.tasks.work().unwrap();
    drop(process(&url, false));
    assert_eq!(shop.ids().await, Vec::<String>::new());
    // The same order again. The killed process holds its id until the server notices that the connection is closed.
    drop(process(&url, true));
    until("the task is there", async || shop.ids().await == ["tea"]).await;
    soon(shop.is_confirmed("tea")).await;
    assert_eq!(shop.items().await, ["tea"]);
    assert_eq!(shop.orders(), ["tea"]);
}
