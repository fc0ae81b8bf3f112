//! A program with children that end before they call `init`: in this test binary, they find no matching test and exit.
#![allow(clippy::unwrap_used)]

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::time::Duration;
use tower_promises_process::{ProcessError, ProcessJob, ProcessPool};

#[derive(Serialize, Deserialize)]
struct Nothing;

impl ProcessJob for Nothing {
    type Output = ();

    fn run(self) {}
}

fn reason(error: &ProcessError) -> String {
    assert!(
        matches!(error, ProcessError::StartFailed { .. }),
        "{error:?}"
    );
    error.source().unwrap().to_string()
}

#[tokio::test]
async fn a_process_that_does_not_call_init_is_an_error() {
    let error = ProcessPool::new().run(Nothing).await.unwrap_err();
    assert!(
        reason(&error).contains("not called `tower_promises_process::init`"),
        "{error:?}"
    );

    procspawn::testsupport::enable(None);
    let pool = ProcessPool::builder()
        .max_processes(2)
        .start_timeout(Duration::from_millis(50))
        .build();
    // A pool gives up after 16 lost starts.
    for _ in 0..18 {
        let error = pool.run(Nothing).await.unwrap_err();
        assert!(reason(&error).contains("init` in time"), "{error:?}");
        assert_eq!(pool.running(), 0, "the place is free again");
    }
}
