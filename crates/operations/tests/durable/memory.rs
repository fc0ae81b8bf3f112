//! What is remembered, what is not, and what no longer fits.

use crate::mortal::{Death, Mortal};
use crate::process::{Diary, Process, layer, settled};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use test_support::operation::SECOND;
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::promise::PromiseResults;
use tower_promises::{PromiseError, PromiseLayer, Promises};
use tower_promises_operations::durable::{Recording, RememberedError, Settlement, Settling};

/// Runs a handler in one process, loses that process at a step that hangs there, and returns what the handler returns
/// in another process.
async fn in_two_processes(
    promises: PromiseLayer,
    first: impl Fn(&Promises) -> Result<String, PromiseError> + Clone + Send + Sync + 'static,
    second: impl Fn(&Promises) -> Result<String, PromiseError> + Clone + Send + Sync + 'static,
) -> (u16, String) {
    let backend = Backend::memory();
    let hanging = move |promises: &Promises| {
        first(promises)?;
        promises.result_or_submit("hang", std::future::pending::<String>)
    };
    let mut one = Process::with(layer(&backend), promises.clone(), hanging);
    let path = one.begin("POST /").await;
    sleep(10 * SECOND).await;
    one.kill().await;
    let other = Process::with(layer(&backend), promises, second);
    other.result(&path).await
}

#[tokio::test(start_paused = true)]
async fn values_and_failures_are_remembered_with_their_kind() {
    let diary = Diary::default();
    let noted = diary.clone();
    let handler = move |promises: &Promises| {
        let (one, two, three) = (noted.clone(), noted.clone(), noted.clone());
        let value = promises.durable("value", move || async move {
            one.note("value");
            vec![1.5, 2.5]
        });
        let failed = promises.try_durable("failed", move || async move {
            two.note("failed");
            "many".parse::<u32>()
        });
        let timed_out = promises.durable("timed out", move || async move {
            three.note("timed out");
            sleep(60 * SECOND).await;
        });
        settled(&value)?;
        settled(&timed_out)?;
        let Err(PromiseError::Failed { error, .. }) = &failed else {
            panic!("{failed:?}");
        };
        assert!(error.is::<RememberedError>(), "in the first run, too");
        Ok(format!("{:?} {error} {}", value?, timed_out.unwrap_err()))
    };
    let promises = PromiseLayer::new().promise_timeout(5 * SECOND);
    let hang = handler.clone();
    let first = move |promises: &Promises| {
        hang(promises)?;
        // Longer than the timeout of ordinary promises.
        promises.durable("long", async || sleep(4 * SECOND).await)?;
        promises.sleep("pause", SECOND / 2)?;
        Ok(String::new())
    };
    let (status, body) = in_two_processes(promises, first, handler).await;
    assert_eq!(
        (status, &*body),
        (
            200,
            "[1.5, 2.5] invalid digit found in string promise `timed out` timed out"
        )
    );
    for name in ["value", "failed", "timed out"] {
        assert_eq!(diary.count(name), 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn ordinary_promises_and_panics_run_again() {
    let diary = Diary::default();
    let noted = diary.clone();
    let handler = move |promises: &Promises| {
        let (one, two) = (noted.clone(), noted.clone());
        promises.result_or_submit("ordinary", move || async move { one.note("ordinary") })?;
        let panicked = promises.durable("panic", move || async move {
            two.note("panic");
            assert!(two.count("panic") > 1, "on purpose");
        });
        settled(&panicked)?;
        Ok(format!("{}", panicked.is_ok()))
    };
    let (_, body) = in_two_processes(PromiseLayer::new(), handler.clone(), handler).await;
    assert_eq!(body, "true");
    assert_eq!((diary.count("ordinary"), diary.count("panic")), (2, 2));
}

#[derive(Clone, Serialize, Deserialize)]
struct Old {
    name: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct New {
    name: String,
    amount: u32,
}

// Contract: 8.5
#[tokio::test(start_paused = true)]
async fn a_value_that_no_longer_fits_is_an_error_that_names_both_types() {
    let first = |promises: &Promises| {
        let name = async || Old { name: "Ada".into() };
        Ok(promises.durable("customer", name)?.name)
    };
    let second = |promises: &Promises| {
        let name = async || New {
            name: "Ada".into(),
            amount: 1,
        };
        let new = promises.durable("customer", name)?;
        Ok(format!("{} {}", new.name, new.amount))
    };
    let (status, body) = in_two_processes(PromiseLayer::new(), first, second).await;
    assert_eq!(status, 500);
    for part in [
        "customer",
        "memory::Old",
        "memory::New",
        "missing field `amount`",
    ] {
        assert!(body.contains(part), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn code_may_be_reordered_and_extended_while_a_request_is_under_way() {
    let diary = Diary::default();
    let (one, two) = (diary.clone(), diary.clone());
    let step = |promises: &Promises, diary: &Diary, name: &'static str| {
        let diary = diary.clone();
        promises.durable(name, move || async move {
            diary.note(name);
            name.to_owned()
        })
    };
    let first = move |promises: &Promises| {
        let (a, b) = (step(promises, &one, "a")?, step(promises, &one, "b")?);
        Ok(format!("{a}{b}"))
    };
    let second = move |promises: &Promises| {
        let (c, b) = (step(promises, &two, "c")?, step(promises, &two, "b")?);
        Ok(format!("{c}{b}{}", step(promises, &two, "a")?))
    };
    let (_, body) = in_two_processes(PromiseLayer::new(), first, second).await;
    assert_eq!(
        (&*body, diary.read()),
        ("cba", vec!["a".into(), "b".into(), "c".into()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_too_large_or_no_json_is_an_error_and_nothing_is_lost() {
    let layer = layer(&Backend::memory()).max_remembered_bytes(10_000);
    let process = Process::start(layer, |promises| {
        let small = promises.durable("small", async || "x".repeat(1_000))?;
        let large = promises.durable("large", async || "x".repeat(10_000));
        let number = promises.durable("number", async || f64::NAN);
        settled(&large)?;
        settled(&number)?;
        assert!(
            matches!(large, Err(PromiseError::NotRemembered { .. })),
            "{large:?}"
        );
        assert!(
            matches!(number, Err(PromiseError::NotRemembered { .. })),
            "{number:?}"
        );
        Ok(small.len().to_string())
    });
    assert_eq!(process.ask("POST /").await.body, "1000");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_remembered_promises_is_limited() {
    let layer = layer(&Backend::memory()).max_remembered(2);
    let process = Process::start(layer, |promises| {
        promises.durable("one", async || 1)?;
        promises.durable("two", async || 2)?;
        promises.durable("three", async || 3)?;
        Ok(String::new())
    });
    let answer = process.ask("POST /").await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.body,
        "the outcome of promise `three` cannot be remembered: the operation has 2 remembered entries, and may not have more"
    );
}

/// More than fits into one value of the store.
#[tokio::test(start_paused = true)]
async fn many_and_large_values_are_remembered() {
    let diary = Diary::default();
    let noted = diary.clone();
    let handler = move |promises: &Promises| {
        let mut bytes = 0;
        for chunk in 0..5 {
            let mut pending = None;
            for number in 0..50 {
                let noted = noted.clone();
                let value = promises.durable(format!("{chunk} {number}"), move || async move {
                    noted.note("value");
                    "x".repeat(if number == 0 { 100_000 } else { 1_000 })
                });
                match value {
                    Ok(value) => bytes += value.len(),
                    Err(error) => pending = Some(error),
                }
            }
            if let Some(pending) = pending {
                return Err(pending);
            }
        }
        Ok(bytes.to_string())
    };
    let (_, body) = in_two_processes(PromiseLayer::new(), handler.clone(), handler).await;
    assert_eq!(body, (5 * (100_000 + 49_000)).to_string());
    assert_eq!(diary.count("value"), 250);
}

#[tokio::test(start_paused = true)]
async fn idempotency_keys_are_the_same_in_each_run_and_differ_by_name_and_operation() {
    let diary = Diary::default();
    let noted = diary.clone();
    let handler = move |promises: &Promises| {
        let key = |name: &'static str| promises.idempotency_key(name).unwrap();
        noted.note(format!("{} {}", key("a"), key("b")));
        promises.sleep("pause", 10 * SECOND)?;
        Ok(String::new())
    };
    let process = Process::start(layer(&Backend::memory()), handler);
    for _ in 0..2 {
        let path = process.begin("POST /").await;
        process.ended(&path).await;
    }
    let noted = diary.read();
    assert_eq!(noted.len(), 4);
    assert_eq!((&noted[0], &noted[2]), (&noted[1], &noted[3]));
    assert_ne!(noted[0], noted[2]);
    let (a, b) = noted[0].split_once(' ').unwrap();
    assert_ne!(a, b);
    assert_eq!(a.len(), 32);
}

#[tokio::test(start_paused = true)]
async fn a_blocking_promise_is_remembered() {
    let handler = |promises: &Promises| {
        promises
            .durable_blocking("sum", || 6 * 7)
            .map(|n| n.to_string())
    };
    let (_, body) = in_two_processes(PromiseLayer::new(), handler, |promises: &Promises| {
        promises
            .durable_blocking("sum", || 0)
            .map(|n| n.to_string())
    })
    .await;
    assert_eq!(body, "42");
}

/// Nothing is read that is not stored, and nothing runs again because the store fails.
#[tokio::test(start_paused = true)]
async fn storing_is_repeated_while_the_run_lasts() {
    let (diary, backend) = (Diary::default(), Backend::memory());
    let (mortal, life) = Mortal::backend(&backend, Death::Never);
    let noted = diary.clone();
    let full = life.clone();
    let process = Process::start(layer(&mortal), move |promises| {
        let (one, full) = (noted.clone(), full.clone());
        let value = promises.durable("value", move || async move {
            one.note("runs");
            full.set_full(true);
            7
        })?;
        noted.note("is read");
        Ok(value.to_string())
    });
    let path = process.begin("POST /").await;
    sleep(60 * SECOND).await;
    assert_eq!(diary.read(), ["runs"]);
    life.set_full(false);
    assert_eq!(process.result(&path).await.1, "7");
    assert_eq!(diary.read(), ["runs", "is read"]);
}

/// A store that fails until the lease ends: the run begins again.
#[tokio::test(start_paused = true)]
async fn a_run_that_cannot_store_begins_again_elsewhere() {
    let (diary, backend) = (Diary::default(), Backend::memory());
    let (mortal, life) = Mortal::backend(&backend, Death::Never);
    let handler = |process: &'static str| {
        let diary = diary.clone();
        move |promises: &Promises| {
            let diary = diary.clone();
            let value = promises.durable("value", move || async move {
                diary.note(process);
                sleep(SECOND).await;
                7
            })?;
            Ok(value.to_string())
        }
    };
    let mut one = Process::start(layer(&mortal), handler("one"));
    let path = one.begin("POST /").await;
    life.set_full(true);
    sleep(5 * SECOND).await;
    one.kill().await;
    let other = Process::start(layer(&backend), handler("the other"));
    assert_eq!(other.result(&path).await.1, "7");
    assert_eq!(diary.read(), ["one", "the other"]);
}

/// The application settles a promise whose work is under way: what is stored is read, also in this run.
#[tokio::test(start_paused = true)]
async fn the_first_settlement_counts() {
    let process = Process::start(layer(&Backend::memory()), |promises| {
        let value = promises.durable("value", async || {
            sleep(5 * SECOND).await;
            7
        })?;
        Ok(value.to_string())
    });
    let path = process.begin("POST /").await;
    let id = path.rsplit('/').next().unwrap();
    let eight = Settlement::value(&8).unwrap();
    let settled = process.operations.settle(id, "value", &eight).await;
    assert_eq!(settled.unwrap(), Settling::Settled);
    assert_eq!(process.result(&path).await.1, "8");
}

#[tokio::test(start_paused = true)]
async fn an_async_handler_awaits_durable_promises() {
    let (backend, diary) = (Backend::memory(), Diary::default());
    let service = |process: &'static str| {
        let diary = diary.clone();
        let handler = async move |promises: Promises| {
            let noted = diary.clone();
            let value = promises.resolve_durable("value", move || async move {
                noted.note("value");
                7
            });
            let value = value.await.unwrap();
            let again = promises.resolve_durable("value", async || 8).await.unwrap();
            let failed = promises.try_resolve_durable("failed", async || "x".parse::<u32>());
            let failed = failed.await.unwrap_err();
            if process == "one" {
                std::future::pending::<()>().await;
            }
            format!("{value} {again} {failed}")
        };
        axum::Router::new()
            .fallback(handler)
            .layer(PromiseLayer::new())
    };
    let mut one = Process::serving(layer(&backend), service("one"));
    let path = one.begin("POST /").await;
    one.kill().await;
    let other = Process::serving(layer(&backend), service("the other"));
    assert_eq!(other.result(&path).await.1, "7 7 promise `failed` failed");
    assert_eq!(diary.read(), ["value"]);
    // In a request that is not durable.
    assert_eq!(other.ask("GET /").await.body, "7 7 promise `failed` failed");
}

/// The time in which a test expects an operation to continue.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn an_operation_forgets_from_a_name_on() {
    let diary = Diary::default();
    let noted = diary.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        for name in ["a", "b", "c"] {
            let noted = noted.clone();
            promises.durable(name, move || async move { noted.note(name) })?;
        }
        promises.outside::<()>("end")?;
        Ok("done".to_owned())
    });
    let path = process.begin("POST /").await;
    let document = process.suspended(&path).await;
    let id = document["id"].as_str().unwrap();
    assert!(process.operations.forget_from(id, "b").await.unwrap());
    sleep(SOON).await;
    assert_eq!(diary.read(), ["a", "b", "c", "b", "c"]);
    assert!(!process.operations.forget_from(id, "unknown").await.unwrap());
    assert!(
        !process
            .operations
            .forget_from("unknown", "a")
            .await
            .unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_is_replayed_from_a_recording() {
    let process = Process::start(layer(&Backend::memory()), |promises| {
        let name = promises
            .durable("customer", async || Old { name: "Ada".into() })?
            .name;
        let amount = promises.durable("amount", async || 7_u32)?;
        promises.durable("gone", async || ())?;
        promises.sleep("pause", SECOND / 10)?;
        Ok(format!("{name} {amount}"))
    });
    let answer = process.send(test_support::operation::request(
        "POST /",
        &[("prefer", "respond-async")],
    ));
    let path = answer.await.header("operation-location").to_owned();
    assert_eq!(process.result(&path).await.1, "Ada 7");
    let document = process.document(&path).await;
    let id = document["id"].as_str().unwrap();
    let recording = process.operations.recording(id).await.unwrap().unwrap();
    assert!(
        process
            .operations
            .recording("unknown")
            .await
            .unwrap()
            .is_none()
    );
    // As a test keeps it in a file.
    let recording = Recording::from_json(&recording.to_json()).unwrap();
    let names: Vec<_> = recording.names().collect();
    assert_eq!(names, ["customer", "amount", "gone", "pause"]);
    assert_eq!(recording.value::<Old>("customer").unwrap().name, "Ada");
    assert_eq!(recording.value::<u64>("amount").unwrap(), 7);

    let promises = Promises::with_results(PromiseResults::new().recorded(&recording));
    let new = || async {
        New {
            name: String::new(),
            amount: 0,
        }
    };
    let customer = promises.durable("customer", new);
    assert!(
        matches!(customer, Err(PromiseError::Unreadable { .. })),
        "{:?}",
        customer.err()
    );
    let amount = promises.durable("amount", async || 0_u64);
    assert_eq!(amount.unwrap(), 7);
    promises.sleep("pause", HOUR).unwrap();
    assert!(
        promises
            .durable("new", async || ())
            .is_err_and(|error| error.is_pending())
    );
    assert!(promises.idempotency_key("new").is_some());

    let replayed = promises.replayed().unwrap();
    assert_eq!(
        (replayed.new, replayed.unread),
        (vec!["new".to_owned()], vec!["gone".to_owned()])
    );
    let changed: Vec<_> = replayed
        .changed
        .iter()
        .map(|it| (&*it.name, it.fits))
        .collect();
    assert_eq!(changed, [("customer", false), ("amount", true)]);
    assert_eq!(replayed.changed[1].requested, "u64");
    assert_eq!(replayed.changed[1].remembered.as_deref(), Some("u32"));
    assert!(
        Promises::with_results(PromiseResults::new())
            .replayed()
            .is_none()
    );
}

const HOUR: Duration = Duration::from_secs(60 * 60);

#[tokio::test(start_paused = true)]
async fn a_recording_tells_the_outcomes_of_promises() {
    let process = Process::start(layer(&Backend::memory()), |promises| {
        let charge = promises.try_durable("charge", async || Err::<u32, _>("it is broken"));
        settled(&charge)?;
        let late = promises.outside_with_timeout::<u32>("late", SECOND * 5);
        settled(&late)?;
        promises.outside::<u32>("open")?;
        Ok(String::new())
    });
    let path = process.begin("POST /").await;
    process
        .until(&path, |document| {
            document["attempt"] == 2 && document["waitingFor"].is_array()
        })
        .await;
    let id = path.rsplit('/').next().unwrap();
    let recording = process.operations.recording(id).await.unwrap().unwrap();
    // What has not settled has no outcome.
    let names: Vec<_> = recording.names().collect();
    assert_eq!(names, ["charge", "late"]);
    assert_eq!(recording.settlement("late"), Some(&Settlement::TimedOut));
    assert_eq!(recording.settlement("open"), None);
    let error = |name| recording.value::<u32>(name).unwrap_err();
    assert!(error("charge").is::<RememberedError>());
    assert_eq!(error("charge").to_string(), "it is broken");
    assert_eq!(
        error("late").to_string(),
        "the promise `late` has timed out"
    );
    assert_eq!(
        error("open").to_string(),
        "the promise `open` has not settled"
    );

    // The first outcome counts, as in a run.
    let settle = |value: u32| Settlement::value(&value).unwrap();
    let recording = Recording::new().with("a", settle(1)).with("a", settle(2));
    assert_eq!(recording.names().count(), 1);
    assert_eq!(recording.value::<u32>("a").unwrap(), 1);
    assert!(recording.value::<String>("a").is_err());
}

#[test]
fn a_recording_made_by_hand_knows_the_addresses_of_its_promises() {
    let approval = Settlement::value(&true).unwrap();
    let recording = Recording::new().with("approval", approval);
    let promises = Promises::with_results(PromiseResults::new().recorded(&recording));
    let address = promises.outside_url("approval").unwrap();
    assert!(address.contains("/promises/"), "{address}");
    assert!(promises.outside::<bool>("approval").unwrap());
    let unknown = promises.outside_url("another");
    assert!(unknown.is_err_and(|error| error.is_pending()));
}
