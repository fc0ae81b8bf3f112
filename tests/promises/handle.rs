//! The methods of `Promises`.

use std::error::Error;
use std::sync::{Arc, Mutex};
use test_support::{Counter, Log, Notes, ask, ask_async};
use tower_promises::promise::{PromiseKey, PromiseResults, SubmitError};
use tower_promises::{BoxError, OrPending, PromiseError, PromiseLayer, Promises};

fn read(promises: &Promises, key: &'static str) -> String {
    match promises.result::<u32>(key) {
        Ok(value) => value.to_string(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn reads_of_an_unknown_a_pending_a_resolved_and_a_cleared_key() {
    let notes = Notes::default();
    let answer = ask(PromiseLayer::new(), |promises| {
        notes.push(read(promises, "x"));
        if promises.pass() == 1 {
            promises.submit("x", async { 7_u32 })?;
        }
        notes.push(read(promises, "x"));
        notes.push(format!("cleared: {}", promises.clear("x")));
        notes.push(read(promises, "x"));
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().passes, 2);
    assert_eq!(
        notes.all(),
        [
            "promise `x` has not been submitted",
            "promise `x` has not settled yet",
            "cleared: false",
            "promise `x` has not settled yet",
            "7",
            "7",
            "cleared: true",
            "promise `x` has not been submitted",
        ]
    );
}

#[tokio::test]
async fn a_wrong_type_names_the_key_and_both_types() {
    for resolved in [false, true] {
        let answer = ask(PromiseLayer::new(), |promises| {
            if promises.pass() == 1 {
                promises.submit("x", async { 7_u32 })?;
            }
            if promises.pass() == 2 || !resolved {
                promises.result::<String>("x")?;
            }
            Ok(String::new())
        });
        let error = answer.await.unwrap_err();
        let error = error.downcast::<PromiseError>().unwrap();
        assert_eq!(
            error.to_string(),
            "promise `x` has the wrong type: expected `alloc::string::String`, found `u32`"
        );
        assert!(matches!(
            *error,
            PromiseError::WrongType { key, expected: "alloc::string::String", found: "u32", .. }
                if key == "x"
        ));
    }
}

#[tokio::test]
async fn a_pending_name_cannot_be_submitted_with_another_type() {
    let answer = ask(PromiseLayer::new(), |promises| {
        promises.submit("x", async { 7_u32 })?;
        let error = promises.submit("x", async { "seven" }).unwrap_err();
        promises.publish();
        Ok(error.to_string())
    });
    assert_eq!(
        answer.await.unwrap().body,
        "promise `x` has the wrong type: expected `&str`, found `u32`"
    );
}

#[tokio::test]
async fn a_resolved_name_is_refused_until_it_is_cleared() {
    let runs = Counter::default();
    let run = || {
        let runs = runs.clone();
        async move {
            runs.add();
            runs.get()
        }
    };
    let answer = ask(PromiseLayer::new(), |promises| match promises.pass() {
        1 => {
            promises.submit("x", run())?;
            Ok(String::new())
        }
        2 => {
            let refused = promises.submit("x", run()).unwrap_err();
            assert!(matches!(&refused, SubmitError::AlreadyResolved { key, .. } if *key == "x"));
            assert_eq!(promises.result::<usize>("x")?, 1);
            assert!(promises.clear("x"));
            promises.submit("x", run())?;
            Ok(String::new())
        }
        _ => Ok(promises.result::<usize>("x")?.to_string()),
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes, runs.get()),
        ("2", 3, 2)
    );
}

#[tokio::test]
async fn the_same_key_twice_in_a_pass_is_one_promise() {
    let (made, polled, dropped) = (Counter::default(), Counter::default(), Counter::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        if promises.pass() == 1 {
            for index in 0..3 {
                let (polled, guard) = (polled.clone(), dropped.on_drop());
                made.add();
                promises.submit("x", async move {
                    polled.add();
                    drop(guard);
                    index
                })?;
            }
            assert_eq!(
                dropped.get(),
                2,
                "the second and the third are dropped at once"
            );
        }
        Ok(promises.result::<i32>("x").or_pending(-1)?.to_string())
    });
    assert_eq!(answer.await.unwrap().body, "0");
    assert_eq!((made.get(), polled.get(), dropped.get()), (3, 1, 3));
}

#[tokio::test]
async fn a_promise_that_is_submitted_while_another_is_created_is_kept() {
    // Also with more names than are searched linearly.
    for before in [0, 1, 15, 16, 17, 40] {
        let answer = ask(PromiseLayer::new(), |promises| {
            for index in 0..before {
                let _ = promises.submit(format!("before{index}"), async { 0_u32 });
            }
            let make = || {
                // Submits another name, and then the name that is being created.
                promises.submit("b", async { 20_u32 }).unwrap();
                promises.submit("a", async { 1_u32 }).unwrap();
                async { 10_u32 }
            };
            let a = promises.result_or_submit("a", make)?;
            let make = || {
                promises.submit("d", async { 40_u32 }).unwrap();
                async { 30_u32 }
            };
            let c = promises.result_or_submit("c", make)?;
            let (b, d): (u32, u32) = (promises.result("b")?, promises.result("d")?);
            let names = promises.keys();
            let names = names[before..].iter().map(|key| key.as_str());
            let names: Vec<_> = names.collect();
            Ok(format!("{a} {b} {c} {d} {names:?}"))
        })
        .await
        .unwrap();
        assert_eq!(
            answer.body, r#"1 20 30 40 ["b", "a", "d", "c"]"#,
            "{before}"
        );
    }
}

#[tokio::test]
async fn a_cancelled_promise_is_never_polled_and_the_placeholder_published() {
    let (polled, dropped) = (Counter::default(), Counter::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        let (polled, guard) = (polled.clone(), dropped.on_drop());
        let work = async move || {
            let _guard = guard;
            polled.add();
        };
        promises.result_or_submit("x", work).or_pending(())?;
        assert!(promises.will_discard());
        assert!(promises.cancel("x"));
        assert_eq!(dropped.get(), 1);
        assert!(!promises.will_discard());
        assert!(!promises.cancel("x"), "there is nothing left to cancel");
        assert!(matches!(
            promises.result::<()>("x"),
            Err(PromiseError::Cancelled { .. })
        ));
        Ok("placeholder".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("placeholder", 1));
    assert_eq!(polled.get(), 0);
}

#[tokio::test]
async fn a_published_pass_drops_pending_promises_unpolled() {
    let (polled, dropped) = (Counter::default(), Counter::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        for key in ["x", "y"] {
            let (polled, guard) = (polled.clone(), dropped.on_drop());
            promises.submit(key, async move {
                let _guard = guard;
                polled.add();
            })?;
            promises.publish();
        }
        assert!(!promises.will_discard(), "a transaction is to be committed");
        Ok("placeholder".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("placeholder", 1));
    assert_eq!((polled.get(), dropped.get()), (0, 2));
}

#[tokio::test]
async fn reset_removes_a_promise_in_any_state() {
    let answer = ask(PromiseLayer::new(), |promises| match promises.pass() {
        1 => {
            promises.submit("x", async { 1_u32 })?;
            assert!(promises.reset("x"));
            assert!(!promises.reset("x"));
            assert_eq!(read(promises, "x"), "promise `x` has not been submitted");
            promises.submit("x", async { 2_u32 })?;
            Ok(String::new())
        }
        _ => {
            let value = read(promises, "x");
            assert!(promises.reset("x"));
            assert_eq!(read(promises, "x"), "promise `x` has not been submitted");
            Ok(value)
        }
    });
    assert_eq!(answer.await.unwrap().body, "2");
}

#[tokio::test]
async fn a_failed_promise_is_an_error_at_each_read_and_no_default_hides_it() {
    let log = Log::start();
    let answer = ask(PromiseLayer::new(), |promises| {
        let work = async || Err::<u32, _>("no such user");
        for _ in 0..3 {
            let read = promises.result_or_try_submit("user", work).or_pending(0);
            if promises.pass() == 1 {
                assert_eq!(read.unwrap(), 0);
            } else {
                let error = read.unwrap_err();
                assert_eq!(error.to_string(), "promise `user` failed");
                assert_eq!(error.source().unwrap().to_string(), "no such user");
                assert_eq!(error.status(), 500);
            }
        }
        Ok("an error page".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("an error page", 2));
    assert!(log.text().contains("no such user"), "{}", log.text());
}

#[tokio::test]
async fn the_error_of_a_promise_can_be_downcast() {
    #[derive(Debug, PartialEq)]
    struct NotFound(u32);

    impl std::fmt::Display for NotFound {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{} not found", self.0)
        }
    }

    impl Error for NotFound {}

    let answer = ask(PromiseLayer::new(), |promises| {
        let read = promises.result_or_try_submit("x", async || Err::<(), _>(NotFound(7)));
        let PromiseError::Failed { error, .. } = read.unwrap_err() else {
            return Ok(String::new());
        };
        assert_eq!(error.downcast_ref(), Some(&NotFound(7)));
        Ok("found it".to_owned())
    });
    assert_eq!(answer.await.unwrap().body, "found it");
}

#[tokio::test]
async fn a_panic_in_a_promise_is_its_error() {
    let log = Log::start();
    let answer = ask(PromiseLayer::new(), |promises| {
        let other = promises
            .result_or_submit("other", async || 1)
            .or_pending(0)?;
        let read = promises.result_or_submit::<u32, _>("x", async || panic!("out of {}", "tea"));
        match read.or_pending(0) {
            Ok(_) => Ok("placeholder".to_owned()),
            Err(error) => Ok(format!("{other}: {error}")),
        }
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.body, "1: promise `x` panicked: out of tea");
    assert_eq!(answer.passes, 2);
    assert!(log.text().contains("ERROR"), "{}", log.text());
}

#[tokio::test]
async fn keys_come_in_the_order_of_submission() {
    let promises = Promises::with_results(PromiseResults::new().value("first", 1));
    for key in ["d", "b", "c", "a"] {
        promises.submit(key, async {}).unwrap();
    }
    promises.cancel("b");
    assert_eq!(promises.keys(), ["first", "d", "b", "c", "a"]);
}

#[tokio::test]
async fn typed_keys_need_no_type_at_the_call() {
    const ANSWER: PromiseKey<u32> = PromiseKey::new("answer");
    let answer = ask(PromiseLayer::new(), |promises| {
        let user = PromiseKey::<String>::named(format!("user:{}", 7));
        if promises.pass() == 1 {
            promises.submit(ANSWER, async { 42 })?;
            promises.submit(&user, async { "Ferris".into() })?;
        }
        let (answer, user) = (promises.result(ANSWER), promises.result(&user));
        Ok(format!(
            "{} {}",
            answer.or_pending(0)?,
            user.or_pending(String::new())?
        ))
    });
    assert_eq!(answer.await.unwrap().body, "42 Ferris");
}

#[tokio::test]
async fn all_readers_get_the_same_value() {
    let runs = Counter::default();
    let component = |promises: &Promises| -> Result<String, PromiseError> {
        let runs = runs.clone();
        let work = async move || {
            runs.add();
            "shared".to_owned()
        };
        promises.result_or_submit("x", work)
    };
    let answer = ask(PromiseLayer::new(), |promises| {
        let (a, b) = (component(promises), component(promises));
        Ok(format!("{} {}", a?, b?))
    });
    assert_eq!(answer.await.unwrap().body, "shared shared");
    assert_eq!(runs.get(), 1);
}

#[tokio::test]
async fn a_name_that_is_submitted_while_its_promise_is_made_keeps_the_first_promise() {
    let dropped = Counter::default();
    let answer = ask(PromiseLayer::new(), |promises| {
        let make = || {
            promises.submit("other", async {}).unwrap();
            promises.submit("x", async { 1_u32 }).unwrap();
            let guard = dropped.on_drop();
            async move {
                drop(guard);
                2_u32
            }
        };
        let of_another_type = || {
            promises.submit("y", async { 1_u32 }).unwrap();
            async { "2" }
        };
        let x = promises.result_or_submit("x", make);
        let y = promises.result_or_submit("y", of_another_type);
        assert!(matches!(y, Err(PromiseError::WrongType { .. })), "{y:?}");
        assert_eq!(promises.keys(), ["other", "x", "y"]);
        Ok(x?.to_string())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("1", 2));
    assert_eq!(dropped.get(), 1);
}

#[tokio::test]
async fn the_handle_of_an_earlier_pass_cannot_submit_into_a_later_one() {
    let first = Arc::new(Mutex::new(None::<Promises>));
    let answer = ask(PromiseLayer::new(), |promises| {
        let mut first = first.lock().unwrap();
        match &*first {
            Some(first) => {
                let error = first.submit("y", async {}).unwrap_err();
                assert!(matches!(error, SubmitError::Ended { .. }), "{error:?}");
                let error = first.result_or_submit("y", async || ()).unwrap_err();
                assert!(matches!(error, PromiseError::Ended { .. }), "{error:?}");
                assert!(!promises.will_discard());
                assert_eq!(first.pass(), 1);
                Ok(first.result::<u32>("x")?.to_string())
            }
            None => {
                *first = Some(promises.clone());
                promises.submit("x", async { 7_u32 })?;
                Ok(String::new())
            }
        }
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("7", 2));
}

#[tokio::test]
async fn current_finds_the_request_deep_in_synchronous_code() {
    fn component() -> Result<String, BoxError> {
        let promises = Promises::current().ok_or("no current request")?;
        let work = async || {
            // Also in a running promise.
            let promises = Promises::current().unwrap();
            format!("asked in pass {}", promises.pass())
        };
        Ok(promises.result_or_submit("x", work)?)
    }

    assert!(Promises::current().is_none());
    let answer = ask_async(PromiseLayer::new(), async |_| {
        tokio::task::yield_now().await;
        let elsewhere = tokio::spawn(async { Promises::current().is_none() });
        assert!(elsewhere.await.unwrap());
        component()
    });
    assert_eq!(answer.await.unwrap().body, "asked in pass 1");
    assert!(Promises::current().is_none());
}

#[test]
fn scope_makes_a_handle_current_and_restores_the_former_handle() {
    let outer = Promises::with_results(PromiseResults::new().value("name", "outer"));
    let inner = Promises::with_results(PromiseResults::new().value("name", "inner"));
    let name = || Promises::current().unwrap().result::<&str>("name").unwrap();
    let names = outer.scope(|| (name(), inner.scope(name), name()));
    assert_eq!(names, ("outer", "inner", "outer"));

    let panicked = std::panic::catch_unwind(|| outer.scope(|| panic!("in a component")));
    assert!(panicked.is_err());
    assert!(Promises::current().is_none());
}

#[test]
fn a_handle_with_results_acts_as_in_the_second_pass() {
    let results = PromiseResults::new()
        .value("user", "Ferris")
        .failed::<u32>("orders", "no connection")
        .timed_out::<u32>("weather");
    let promises = Promises::with_results(results);
    assert_eq!(promises.pass(), 2);
    assert_eq!(promises.result::<&str>("user").unwrap(), "Ferris");
    let error = promises
        .result_or_submit("orders", async || 1_u32)
        .unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "no connection");
    let error = promises.result::<u32>("weather").unwrap_err();
    assert!(matches!(error, PromiseError::TimedOut { .. }));
    assert_eq!(error.status(), 504);
    assert!(!promises.will_discard());
}

#[test]
fn the_last_of_two_results_with_the_same_name_counts() {
    for others in [0, 15, 16, 100] {
        let results = PromiseResults::new().value("x", 1_u32).value("y", 2_u32);
        let results = (0..others).fold(results, |all, index| all.value(format!("{index}"), index));
        let promises = Promises::with_results(results.value("x", "three"));
        assert_eq!(promises.result::<&str>("x").unwrap(), "three");
        assert_eq!(promises.keys().len(), others + 2);
        assert!(promises.clear("x"));
        let error = promises.result::<&str>("x").unwrap_err();
        assert!(
            matches!(error, PromiseError::NotSubmitted { .. }),
            "{error:?}"
        );
    }
}

#[test]
fn names_are_found_among_many_in_any_order() {
    for count in [1, 16, 17, 128, 129, 600_usize] {
        let promises = Promises::with_results(PromiseResults::new());
        let names: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        for name in &names {
            promises.submit(name.clone(), async { 7 }).unwrap();
        }
        for _ in 0..300 {
            assert!(promises.reset("0"));
            promises.submit("0", async { 8 }).unwrap();
        }
        for name in names.iter().rev() {
            let error = promises.result::<i32>(name.clone()).unwrap_err();
            assert!(error.is_pending(), "{name} of {count}: {error:?}");
        }
        let error = promises.result::<i32>("x").unwrap_err();
        assert!(
            matches!(error, PromiseError::NotSubmitted { .. }),
            "{error:?}"
        );
        assert_eq!(promises.keys().len(), count);
    }
}

#[test]
fn every_method_accepts_a_typed_key() {
    const ANSWER: PromiseKey<u32> = PromiseKey::new("answer");
    let other = PromiseKey::<String>::named(String::from("other"));
    let promises = Promises::with_results(PromiseResults::new().value(ANSWER, 7));
    assert!(promises.clear(ANSWER));
    promises.submit(ANSWER, async { 8 }).unwrap();
    promises.submit(&other, async { String::new() }).unwrap();
    assert!(promises.cancel(&other));
    assert!(promises.reset(ANSWER));
    assert!(promises.reset(other));
    assert!(!promises.reset("answer"));
}

#[tokio::test]
async fn try_current_returns_the_promises_or_names_the_missing_layer() {
    let error = Promises::try_current().unwrap_err();
    assert!(error.to_string().contains("`PromiseLayer`"), "{error}");
    let answer = ask(PromiseLayer::new(), |_| {
        let promises = Promises::try_current()?;
        Ok(promises.result_or_submit("x", async || "kept".to_owned())?)
    });
    assert_eq!(answer.await.unwrap().body, "kept");
}
