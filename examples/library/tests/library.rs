//! The example as a user meets it: started as a process, and used over HTTP.
#![allow(clippy::unwrap_used)]

use test_support::example::Example;

#[tokio::test]
async fn library() {
    let example = Example::start(env!("CARGO_BIN_EXE_library"));
    let page = example.get("/").await;
    assert!(
        page.contains("Book 1 by Author 2 (essay, paper)\n"),
        "{page}"
    );
    assert!(
        page.contains("Book 50 by Author 1 (novel, paper)\n"),
        "{page}"
    );
    assert!(
        page.ends_with("3 queries instead of 101, in 3 passes\n"),
        "{page}"
    );
}
