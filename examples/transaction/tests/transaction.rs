//! The example as a user meets it: started as a process, and used over HTTP.
#![allow(clippy::unwrap_used)]

use test_support::example::{Example, until};
use test_support::postgres::Server;

#[tokio::test]
async fn transaction() {
    confirms_orders(Example::start(env!("CARGO_BIN_EXE_transaction"))).await;
}

#[tokio::test]
async fn orders_and_tasks_share_a_postgres_database() {
    let server = Server::start().await;
    let backend = format!("postgres:{}", server.url());
    let environment = [("BACKEND", &*backend)];
    confirms_orders(Example::start_with(
        env!("CARGO_BIN_EXE_transaction"),
        &environment,
    ))
    .await;
}

async fn confirms_orders(example: Example) {
    assert_eq!(example.get("/").await, "orders:\naudit:\nmails:\n");
    let order = example.post("/orders?item=tea", "").await;
    assert_eq!(order, (200, "tea for 3 coins\n".into()));
    shows(
        &example,
        "orders:\n  tea, written by pass 2\naudit:\nmails:\n  tea is confirmed\n",
    )
    .await;
    // Both passes of this order are rolled back, with their tasks.
    let (status, _) = example.post("/orders?item=unicorn", "").await;
    assert_eq!(status, 500);
    let order = example.post("/audited-orders?item=cake", "").await;
    assert_eq!(order, (200, "cake for 4 coins\n".into()));
    shows(
        &example,
        "orders:\n  tea, written by pass 2\n  cake, written by pass 2\n\
         audit:\n  cake, written by pass 1\n\
         mails:\n  tea is confirmed\n  cake is confirmed\n",
    )
    .await;
}

async fn shows(example: &Example, expected: &str) {
    let what = format!("the page becomes `{expected}`");
    until(&what, async || example.get("/").await == expected).await;
}
