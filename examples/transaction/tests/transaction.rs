//! The example as a user meets it: started as a process, and used over HTTP.
#![allow(clippy::unwrap_used)]

use test_support::example::Example;

#[tokio::test]
async fn transaction() {
    let example = Example::start(env!("CARGO_BIN_EXE_transaction"));
    assert_eq!(example.get("/").await, "orders:\naudit:\n");
    let order = example.post("/orders?item=tea", "").await;
    assert_eq!(order, (200, "tea for 3 coins\n".into()));
    assert_eq!(
        example.get("/").await,
        "orders:\n  tea, written by pass 2\naudit:\n"
    );
    let order = example.post("/audited-orders?item=cake", "").await;
    assert_eq!(order, (200, "cake for 4 coins\n".into()));
    assert_eq!(
        example.get("/").await,
        "orders:\n  tea, written by pass 2\n  cake, written by pass 2\n\
         audit:\n  cake, written by pass 1\n"
    );
}
