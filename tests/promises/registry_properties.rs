//! Properties of a request's promises: for any steps in any passes, they do what a simple model predicts.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod registry;

use proptest::collection::vec;
use proptest::prelude::*;
use registry::{End, Model, Outcome, Step};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use test_support::{TestRequest, get, promises, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::promise::{Key, SubmitError};
use tower_promises::promise::{PromiseResults, Start};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// The value of a promise: its number, and a reference to show that the value is dropped with the request.
#[derive(Clone)]
struct Value {
    number: usize,
    _share: Arc<()>,
}

/// The shared state of the handlers of one request.
struct Run {
    model: Mutex<Model>,
    passes: Vec<Vec<Step>>,
    share: Arc<()>,
    polled: Arc<Mutex<BTreeSet<usize>>>,
    ends: Mutex<Vec<End>>,
    kept: Mutex<Option<Promises>>,
}

impl Run {
    fn work(&self, number: usize) -> impl Future<Output = Value> + Send + 'static {
        let (share, polled) = (Arc::clone(&self.share), Arc::clone(&self.polled));
        async move {
            polled.lock().unwrap().insert(number);
            Value {
                number,
                _share: share,
            }
        }
    }

    async fn pass(&self, promises: Promises) {
        *self.kept.lock().unwrap() = Some(promises.clone());
        let steps = self.passes.get(promises.pass() - 1);
        for &step in steps.into_iter().flatten() {
            let number = self.model.lock().unwrap().next_number();
            let found = self.step(&promises, step, number).await;
            let mut model = self.model.lock().unwrap();
            assert_eq!(found, model.step(step), "{step:?}");
            assert_eq!(
                promises.will_discard(),
                model.is_pending(),
                "pending after {step:?}"
            );
        }
        let mut model = self.model.lock().unwrap();
        let names = model.names().into_iter().map(key);
        let names: Vec<_> = names.map(Key::from).collect();
        assert_eq!(promises.keys(), names);
        self.ends.lock().unwrap().push(model.end_pass());
    }

    async fn step(&self, promises: &Promises, step: Step, number: usize) -> Outcome {
        let work = || self.work(number);
        match step {
            Step::Submit(name) => match promises.submit(key(name), work()) {
                Ok(()) => Outcome::Done,
                Err(error) => refused(&error),
            },
            Step::Result(name) => read(promises.result(key(name))),
            Step::OtherResult(name) => match promises.result::<u8>(key(name)) {
                Err(PromiseError::WrongType { .. }) => Outcome::WrongType,
                Err(PromiseError::NotSubmitted { .. }) => Outcome::NotSubmitted,
                other => panic!("{other:?}"),
            },
            Step::ResultOrSubmit(name) => read(promises.result_or_submit(key(name), work)),
            Step::Resolve(name) => read(promises.resolve(key(name), work).await),
            Step::GiveUp(name) => {
                let waiting = std::pin::pin!(promises.resolve(key(name), work));
                match futures_util::poll!(waiting) {
                    std::task::Poll::Ready(outcome) => read(outcome),
                    std::task::Poll::Pending => Outcome::Pending,
                }
            }
            Step::Cancel(name) => Outcome::Answer(promises.cancel(key(name))),
            Step::Clear(name) => Outcome::Answer(promises.clear(key(name))),
            Step::Reset(name) => Outcome::Answer(promises.reset(key(name))),
            Step::Publish => {
                promises.publish();
                Outcome::Done
            }
        }
    }
}

fn key(name: usize) -> String {
    format!("promise {name}")
}

fn read(outcome: Result<Value, PromiseError>) -> Outcome {
    match outcome {
        Ok(value) => Outcome::Value(value.number),
        Err(PromiseError::Pending { .. }) => Outcome::Pending,
        Err(PromiseError::NotSubmitted { .. }) => Outcome::NotSubmitted,
        Err(PromiseError::Cancelled { .. }) => Outcome::Cancelled,
        Err(PromiseError::WrongType { .. }) => Outcome::WrongType,
        Err(PromiseError::Rejected { error, .. }) => refused(&error),
        Err(error) => panic!("{error:?}"),
    }
}

fn refused(error: &SubmitError) -> Outcome {
    match error {
        SubmitError::AlreadyResolved { .. } => Outcome::AlreadyResolved,
        SubmitError::TooManyPromises { .. } => Outcome::TooMany,
        error => panic!("{error:?}"),
    }
}

/// Sends a request whose handlers take these steps, and compares each outcome with the model.
async fn check(passes: Vec<Vec<Step>>, model: Model) {
    let start = match model.is_eager {
        true => Start::Eager,
        false => Start::PassEnd,
    };
    let layer = PromiseLayer::new()
        .start(start)
        .max_promises(model.max_promises)
        .max_passes(model.max_passes);
    let share = Arc::new(());
    let outer = model
        .outer
        .iter()
        .fold(PromiseResults::new(), |all, &name| {
            let value = Value {
                number: name,
                _share: Arc::default(),
            };
            all.value(key(name), value)
        });
    let run = Arc::new(Run {
        model: Mutex::new(model),
        passes,
        share: Arc::clone(&share),
        polled: Arc::default(),
        ends: Mutex::default(),
        kept: Mutex::default(),
    });
    let service = {
        let run = Arc::clone(&run);
        layer.layer(service_fn(move |request: TestRequest| {
            let run = Arc::clone(&run);
            async move {
                run.pass(promises(&request)).await;
                Ok::<_, BoxError>(text_response(""))
            }
        }))
    };
    let mut request = get("/");
    request
        .extensions_mut()
        .insert(Promises::with_results(outer));
    let response = service.oneshot(request).await.unwrap();

    let ends = run.ends.lock().unwrap();
    let (last, former) = ends.split_last().unwrap();
    assert!(former.iter().all(|end| *end == End::Repeat), "{ends:?}");
    let status = match last {
        End::Publish => 200,
        End::Reject => 500,
        End::Repeat => panic!("the model repeats the last pass"),
    };
    assert_eq!(response.status(), status);
    assert_eq!(
        *run.polled.lock().unwrap(),
        run.model.lock().unwrap().polled
    );

    // A handle that outlives the request does not keep values alive.
    let kept = run.kept.lock().unwrap().clone().unwrap();
    assert_eq!(Arc::strong_count(&share), 2);
    assert!(kept.keys().is_empty());
    let refused = kept.submit(key(0), async {}).unwrap_err();
    assert!(matches!(refused, SubmitError::Ended { .. }), "{refused:?}");
}

fn step(names: usize) -> impl Strategy<Value = Step> {
    let name = || 0..names;
    prop_oneof![
        6 => name().prop_map(Step::Submit),
        6 => name().prop_map(Step::Result),
        1 => name().prop_map(Step::OtherResult),
        8 => name().prop_map(Step::ResultOrSubmit),
        3 => name().prop_map(Step::Resolve),
        2 => name().prop_map(Step::GiveUp),
        2 => name().prop_map(Step::Cancel),
        2 => name().prop_map(Step::Clear),
        2 => name().prop_map(Step::Reset),
        1 => Just(Step::Publish),
    ]
}

/// Steps of a handler that requests the same promises in almost the same order in each pass.
fn usual_steps(names: usize) -> impl Strategy<Value = Vec<Step>> {
    vec((0..20, step(names)), names).prop_map(|steps| {
        let steps = steps.into_iter().enumerate();
        let steps = steps.map(|(name, (chance, step))| match (chance, step) {
            (0, step) => step,
            _ => Step::ResultOrSubmit(name),
        });
        steps.collect()
    })
}

fn run(passes: Vec<Vec<Step>>, model: Model) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(check(passes, model));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn promises_match_their_model(
        passes in (1..60_usize).prop_flat_map(|names| vec(vec(step(names), 0..80), 1..5)),
        is_eager: bool,
        max_promises in prop_oneof![Just(1024_usize), 1..50_usize],
        max_passes in 1..5_usize,
        outer in 0..8_usize,
    ) {
        run(passes, Model::new(is_eager, max_promises, max_passes, outer));
    }

    #[test]
    fn promises_in_the_same_order_in_each_pass_match_their_model(
        passes in (12..40_usize).prop_flat_map(|names| vec(usual_steps(names), 2..4)),
        is_eager: bool,
        outer in 0..8_usize,
    ) {
        run(passes, Model::new(is_eager, 1024, 16, outer));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, failure_persistence: None, ..Default::default() })]

    #[test]
    fn thousands_of_promises_match_their_model(
        passes in vec(usual_steps(1500), 2..4),
        is_eager: bool,
    ) {
        run(passes, Model::new(is_eager, 10_000, 16, 0));
    }
}
