//! Numbers that JSON does not support are errors at their source, and all others arrive unchanged.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use test_support::soon;
use test_support::task::chain;
use tower_promises_backend::Backend;
use tower_promises_process::{ProcessError, ProcessJob, ProcessPool};
use tower_promises_signals::{SignalError, Signals};
use tower_promises_tasks::{
    Task, TaskContext, TaskError, TaskFailure, TaskQueueOptions, TaskState, Tasks,
};

const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Measured {
    name: String,
    ratio: Option<f64>,
    samples: Vec<f32>,
    by_name: BTreeMap<String, f64>,
    shape: Shape,
    range: (f64, f64),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Shape {
    #[default]
    None,
    Circle(f64),
    Arc(f64, f64),
    Box {
        width: f64,
    },
}

fn measured(change: impl FnOnce(&mut Measured)) -> Measured {
    let mut measured = Measured::default();
    change(&mut measured);
    measured
}

/// Values with a number that JSON does not support, and the path in the error.
fn impossible() -> Vec<(Measured, &'static str)> {
    let secret = || "ada@example.org".to_owned();
    vec![
        (measured(|it| it.ratio = Some(f64::NAN)), "`ratio` is NaN"),
        (
            measured(|it| it.samples = vec![1.0, f32::INFINITY]),
            "`samples[1]` is inf",
        ),
        (
            measured(|it| it.by_name = BTreeMap::from([(secret(), f64::NEG_INFINITY)])),
            "`by_name.*` is -inf",
        ),
        (
            measured(|it| it.shape = Shape::Circle(f64::NAN)),
            "`shape.circle` is NaN",
        ),
        (
            measured(|it| it.shape = Shape::Arc(0.0, f64::NAN)),
            "`shape.arc[1]` is NaN",
        ),
        (
            measured(|it| it.shape = Shape::Box { width: f64::NAN }),
            "`shape.box.width` is NaN",
        ),
        (measured(|it| it.range.1 = f64::NAN), "`range[1]` is NaN"),
    ]
}

/// Returns its argument, or creates a value that JSON does not support.
#[derive(Serialize, Deserialize)]
enum Measure {
    Return(Box<Measured>),
    Break(usize),
}

impl Task for Measure {
    const NAME: &'static str = "measure";
    type Output = Measured;

    async fn run(self, _: TaskContext) -> Result<Measured, TaskFailure> {
        Ok(ProcessJob::run(self))
    }
}

impl ProcessJob for Measure {
    type Output = Measured;

    fn run(self) -> Measured {
        match self {
            Self::Return(measured) => *measured,
            Self::Break(which) => impossible().swap_remove(which).0,
        }
    }
}

fn tasks() -> Tasks {
    Tasks::builder(Backend::memory())
        .queue(TaskQueueOptions::new("main").task::<Measure>())
        .build()
}

#[tokio::test(start_paused = true)]
async fn arguments_of_a_task() {
    let tasks = tasks();
    for (value, _) in impossible() {
        for queue in ["main", "nowhere"] {
            let queue = tasks.queue(queue);
            let submit = queue.submit(Measure::Return(Box::new(value.clone())));
            let id = submit.id().clone();
            let error = submit.await.unwrap_err();
            assert!(matches!(error, TaskError::Serialize { .. }), "{error:?}");
            let known = tasks.status(&id).await;
            assert!(matches!(known, Err(TaskError::NotFound { .. })));
        }
    }
    let value = measured(|it| it.ratio = Some(f64::NAN));
    let call = tasks.queue("main").call(Measure::Return(value.into()));
    assert_eq!(
        chain(&call.await.unwrap_err()),
        "task `measure` cannot be serialised: `Return.ratio` is NaN, and JSON has finite numbers only"
    );
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_task() {
    let tasks = tasks();
    let _worker = tasks.work().unwrap();
    for (which, (_, expected)) in impossible().into_iter().enumerate() {
        for queue in ["main", "nowhere"] {
            let call = tasks.queue(queue).call(Measure::Break(which));
            let id = call.id().clone();
            let error = soon(call).await.unwrap_err();
            let TaskError::Failed {
                is_conflict: false, ..
            } = &error
            else {
                panic!("{error:?}");
            };
            let expected = format!(": {expected}, and JSON has finite numbers only");
            assert!(chain(&error).ends_with(&expected), "{}", chain(&error));
            if queue == "main" {
                let status = tasks.status(&id).await.unwrap();
                assert_eq!(status.state(), TaskState::Failed);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_value_of_a_signal() {
    let signals = Signals::memory();
    let before = Measured::default();
    signals.latch("x", &before, MINUTE).await.unwrap();
    for (value, expected) in impossible() {
        let errors = [
            signals.send("x", &value).await.map(drop),
            signals.send_one("x", &value).await.map(drop),
            signals.latch("x", &value, MINUTE).await.map(drop),
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert!(matches!(error, SignalError::Serialize { .. }), "{error:?}");
            assert!(chain(&error).contains(expected), "{}", chain(&error));
        }
    }
    let error = signals.send("x", &f64::NAN).await.unwrap_err();
    assert_eq!(
        chain(&error),
        "signal `x`: a `f64` cannot be serialised: the value is NaN, and JSON has finite numbers only"
    );
    let latched = soon(signals.wait::<Measured>("x")).await;
    assert_eq!(latched.unwrap(), before);
}

#[tokio::test]
async fn a_job_and_its_output() {
    let pool = ProcessPool::builder().timeout(MINUTE).build();
    for which in 0..2 {
        let (value, expected) = impossible().swap_remove(which);
        let job = Measure::Return(Box::new(value));
        for job in [job, Measure::Break(which)] {
            let error = pool.run(job).await.unwrap_err();
            assert!(matches!(error, ProcessError::Serialize { .. }), "{error:?}");
            let expected = expected.trim_start_matches('`');
            assert!(chain(&error).contains(expected), "{}", chain(&error));
        }
    }
}

/// Sends a value and returns it as received, which must be equal to the last bit.
fn arrives<T>(value: &T) -> T
where
    T: Serialize + serde::de::DeserializeOwned,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let signals = Signals::memory();
        let wait = signals.wait::<T>("x");
        signals.send("x", value).await.unwrap();
        wait.await.unwrap()
    })
}

proptest! {
    #[test]
    fn a_finite_number_arrives_as_it_was_sent(bits in any::<u64>(), single in any::<u32>()) {
        let (double, single) = (f64::from_bits(bits), f32::from_bits(single));
        prop_assume!(double.is_finite() && single.is_finite());
        let (other_double, other_single) = arrives(&(double, single));
        prop_assert_eq!(other_double.to_bits(), double.to_bits());
        prop_assert_eq!(other_single.to_bits(), single.to_bits());
    }

    #[test]
    fn an_integer_arrives_as_it_was_sent(
        small in any::<u64>(), negative in any::<i64>(), large in any::<u128>(), low in any::<i128>(),
    ) {
        let sent = (small, negative, large, low);
        prop_assert_eq!(arrives(&sent), sent);
    }
}

#[test]
fn none_is_not_a_missing_number() {
    assert_eq!(arrives(&None::<f64>), None);
    assert_eq!(arrives(&Some(-0.0)).map(f64::is_sign_negative), Some(true));
}
