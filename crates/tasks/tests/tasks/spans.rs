//! Custom spans of tasks.


use test_support::soon;
use test_support::spans::SpanTree;
use test_support::task::{Act, SECOND, act, builder, chain};
use tokio::time::Instant;
use tower_promises_backend::Backend;
use tower_promises_tasks::TaskError;
use tracing::info_span;

#[tokio::test(start_paused = true)]
async fn an_attempt_runs_in_the_span_that_the_application_makes() {
    let spans = SpanTree::record();
    let script = async |argument: String, _| {
        info_span!("inside").in_scope(|| ());
        Ok(argument)
    };
    let tasks = builder(&Backend::memory(), script)
        .make_span_with(|context| info_span!("attempt", number = context.attempt()))
        .build();
    let _worker = tasks.work().unwrap();
    soon(tasks.queue("main").call(act("worker")))
        .await
        .unwrap();
    // This queue was not added, so the task runs in place.
    let elsewhere = tasks.queue("elsewhere").call(act("here"));
    soon(elsewhere).await.unwrap();
    let once = "attempt number=1\n  inside\n";
    assert_eq!(spans.text(), format!("{once}{once}"));
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_the_span_is_made_ends_the_task() {
    let tasks = builder(&Backend::memory(), async |argument, _| Ok(argument))
        .make_span_with(|_| panic!("no span"))
        .build();
    let _worker = tasks.work().unwrap();
    for queue in ["main", "elsewhere"] {
        let start = Instant::now();
        let call = tasks.queue(queue).call::<Act>(act("x"));
        let error = soon(call).await.unwrap_err();
        assert!(matches!(error, TaskError::Failed { .. }), "{error:?}");
        assert!(chain(&error).contains("no span"), "{error:?}");
        assert!(start.elapsed() < SECOND);
    }
}
