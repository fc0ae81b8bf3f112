//! Loaders: many keys that a pass requests become one call.

use futures_util::future::join_all;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::{ask, ask_async};
use tokio::time::{Instant, sleep, timeout};
use tower_promises::loader::Loader;
use tower_promises::promise::PromiseResults;
use tower_promises::{BoxError, OrPending, PromiseError, PromiseLayer, Promises};

const SECOND: Duration = Duration::from_secs(1);

/// Doubles numbers and records each call. Negative numbers have no value.
#[derive(Default)]
struct Doubler {
    calls: Mutex<Vec<Vec<i32>>>,
    max_batch_size: Option<usize>,
    /// The number of calls that fail before the first success.
    failures: Mutex<usize>,
    panics: bool,
    delay: Duration,
}

impl Doubler {
    fn calls(&self) -> Vec<Vec<i32>> {
        self.calls.lock().unwrap().clone()
    }
}

impl Loader for Doubler {
    type Key = i32;
    type Value = i32;
    type Error = BoxError;

    async fn load(&self, keys: &[i32]) -> Result<HashMap<i32, i32>, BoxError> {
        self.calls.lock().unwrap().push(keys.to_vec());
        sleep(self.delay).await;
        assert!(!self.panics, "the loader fell over");
        {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err("no connection".into());
            }
        }
        let known = keys.iter().filter(|key| **key >= 0);
        Ok(known.map(|key| (*key, key * 2)).collect())
    }

    fn max_batch_size(&self) -> usize {
        self.max_batch_size.unwrap_or(1000)
    }
}

#[tokio::test]
async fn all_keys_of_a_pass_become_one_call() {
    let doubler = Arc::new(Doubler::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        let mut sum = 0;
        // Any component may request a key, and some keys are requested more than once.
        for key in [3, 1, 2, 3, 1] {
            sum += promises.load(&doubler, key).or_pending(None)?.unwrap_or(0);
        }
        let many = promises
            .load_many(&doubler, [2, 4])
            .or_pending(Vec::new())?;
        Ok(format!("{sum} {many:?}"))
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes),
        ("20 [Some(4), Some(8)]", 2)
    );
    assert_eq!(doubler.calls(), [[3, 1, 2, 4]]);
}

#[tokio::test]
async fn a_later_pass_loads_only_new_keys() {
    let doubler = Arc::new(Doubler::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        let two = promises.load(&doubler, 1)?.unwrap();
        let many = promises.load_many(&doubler, [1, two, 7])?;
        Ok(format!("{many:?}"))
    });
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.body.as_str(), answer.passes),
        ("[Some(2), Some(4), Some(14)]", 3)
    );
    assert_eq!(doubler.calls(), [vec![1], vec![2, 7]]);
}

#[tokio::test(start_paused = true)]
async fn a_large_batch_is_split_and_its_calls_are_concurrent() {
    let start = Instant::now();
    let doubler = Arc::new(Doubler {
        max_batch_size: Some(4),
        delay: SECOND,
        ..Default::default()
    });
    let answer = ask(PromiseLayer::new(), |promises| {
        let values = promises.load_many(&doubler, 0..10)?;
        Ok(values.into_iter().flatten().sum::<i32>().to_string())
    });
    assert_eq!(answer.await.unwrap().body, "90");
    let sizes: Vec<_> = doubler.calls().iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 4, 2]);
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test]
async fn a_missing_key_is_none() {
    let doubler = Arc::new(Doubler::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        let values = promises.load_many(&doubler, [1, -1])?;
        Ok(format!("{values:?}"))
    });
    assert_eq!(answer.await.unwrap().body, "[Some(2), None]");
    assert_eq!(doubler.calls().len(), 1);
}

#[tokio::test]
async fn the_error_of_a_call_is_the_error_of_each_key() {
    let doubler = Arc::new(Doubler {
        max_batch_size: Some(2),
        failures: Mutex::new(1),
        ..Default::default()
    });
    let answer = ask(PromiseLayer::new(), |promises| {
        let reads: Vec<_> = [1, 2, 3].map(|key| promises.load(&doubler, key)).into();
        if promises.pass() == 1 {
            return Ok(String::new());
        }
        // A further pass does not load again.
        promises.result_or_submit("other", async || ())?;
        for read in &reads[..2] {
            let error = read.as_ref().unwrap_err();
            assert_eq!(error.source().unwrap().to_string(), "no connection");
        }
        assert!(promises.load_many(&doubler, [1, 3]).is_err());
        Ok(format!("{:?}", reads[2].as_ref().unwrap()))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("Some(6)", 3));
    assert_eq!(doubler.calls().len(), 2);
}

#[tokio::test]
async fn a_failed_key_can_be_cleared_and_loaded_again() {
    let doubler = Arc::new(Doubler {
        failures: Mutex::new(1),
        ..Default::default()
    });
    let answer = ask(PromiseLayer::new(), |promises| {
        if promises.pass() == 2 {
            assert!(promises.load(&doubler, 1).is_err());
            assert!(promises.clear_loaded(&doubler, &1));
            assert!(!promises.clear_loaded(&doubler, &1));
        }
        Ok(format!("{:?}", promises.load(&doubler, 1)?))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("Some(2)", 3));
}

#[tokio::test]
async fn a_panic_in_a_loader_is_an_error() {
    let doubler = Arc::new(Doubler {
        panics: true,
        ..Default::default()
    });
    let answer = ask(PromiseLayer::new(), |promises| {
        let reads = [1, 2].map(|key| promises.load(&doubler, key));
        if promises.pass() == 1 {
            return Ok(String::new());
        }
        for read in &reads {
            assert!(
                matches!(read, Err(PromiseError::Panicked { .. })),
                "{read:?}"
            );
        }
        Ok("an error page".to_owned())
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("an error page", 2));
    assert_eq!(doubler.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_times_out_reads_as_an_error() {
    let doubler = Arc::new(Doubler {
        delay: 2 * SECOND,
        ..Default::default()
    });
    let answer = ask(
        PromiseLayer::new().promise_timeout(SECOND),
        |promises| match promises.load(&doubler, 1) {
            Err(PromiseError::TimedOut { .. }) => Ok("timed out".to_owned()),
            read => Ok(format!("{:?}", read?)),
        },
    );
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("timed out", 2));
}

#[tokio::test]
async fn a_cancelled_batch_does_not_affect_later_batches() {
    let doubler = Arc::new(Doubler::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        let first = promises.load(&doubler, 1);
        if promises.pass() == 1 {
            assert!(promises.cancel("Doubler#0 batch 1"));
        }
        let error = promises.load(&doubler, 1).unwrap_err();
        assert!(matches!(error, PromiseError::Cancelled { .. }), "{error:?}");
        assert!(first.is_err());
        Ok(format!("{:?}", promises.load(&doubler, 2)?))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("Some(4)", 2));
    assert_eq!(doubler.calls(), [[2]]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_timed_out_can_be_cleared_and_tried_again() {
    for waits in [false, true] {
        let doubler = Arc::new(Doubler {
            delay: 2 * SECOND,
            ..Default::default()
        });
        let layer = PromiseLayer::new().promise_timeout(SECOND).max_passes(4);
        let answer = ask_async(layer, async |promises: Promises| {
            loop {
                let read = match waits {
                    true => promises.load_async(&doubler, 1).await,
                    false => promises.load(&doubler, 1),
                };
                match read {
                    Err(PromiseError::TimedOut { key, .. }) if doubler.calls().len() < 3 => {
                        assert!(promises.clear(key));
                    }
                    Err(PromiseError::TimedOut { .. }) => return Ok("gave up".to_owned()),
                    read => return Ok(format!("{:?}", read?)),
                }
            }
        });
        assert_eq!(answer.await.unwrap().body, "gave up");
        assert_eq!(doubler.calls(), [[1], [1], [1]]);
    }
}

#[tokio::test]
async fn the_handle_of_an_earlier_pass_cannot_request_new_keys() {
    let doubler = Arc::new(Doubler::default());
    let first = Mutex::new(None);
    let answer = ask(PromiseLayer::new(), |promises| {
        let mut first = first.lock().unwrap();
        let first: &mut Promises = first.get_or_insert_with(|| promises.clone());
        promises.result_or_submit("other", async || ())?;
        let read = promises.load(&doubler, 5);
        let error = first.load(&doubler, 6).unwrap_err();
        assert!(matches!(error, PromiseError::Ended { .. }), "{error:?}");
        // The handle can read loaded values.
        assert_eq!(first.load(&doubler, 5).is_ok(), read.is_ok());
        Ok(format!("{:?}", read?))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("Some(10)", 3));
}

#[tokio::test]
async fn primed_values_are_not_loaded() {
    let doubler = Arc::new(Doubler::default());
    let answer = ask(PromiseLayer::new(), |promises| {
        if promises.pass() == 1 {
            assert!(promises.prime(&doubler, 1, 100));
            assert!(!promises.prime(&doubler, 1, 200));
        }
        let values = promises.load_many(&doubler, [1, 2])?;
        Ok(format!("{values:?}"))
    });
    assert_eq!(answer.await.unwrap().body, "[Some(100), Some(4)]");
    assert_eq!(doubler.calls(), [[2]]);
}

#[tokio::test]
async fn loaders_are_distinguished_by_their_arc() {
    let (one, other) = (Arc::new(Doubler::default()), Arc::new(Doubler::default()));
    let answer = ask(PromiseLayer::new(), |promises| {
        let (a, b) = (promises.load(&one, 1), promises.load(&other, 2));
        Ok(format!("{:?} {:?} {}", a?, b?, promises.keys().len()))
    });
    assert_eq!(answer.await.unwrap().body, "Some(2) Some(4) 2");
    assert_eq!((one.calls(), other.calls()), (vec![vec![1]], vec![vec![2]]));
}

#[tokio::test(start_paused = true)]
async fn async_code_loads_all_keys_that_it_requests_before_it_yields() {
    let start = Instant::now();
    let doubler = Arc::new(Doubler {
        delay: SECOND,
        ..Default::default()
    });
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let rows = (1..=5).map(|key| promises.load_async(&doubler, key));
        let values = join_all(rows).await;
        let more = promises.load_many_async(&doubler, [5, 6, 7]).await?;
        Ok(format!("{} {more:?}", values.len()))
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.body, "5 [Some(10), Some(12), Some(14)]");
    assert_eq!(answer.passes, 1);
    assert_eq!(doubler.calls(), [vec![1, 2, 3, 4, 5], vec![6, 7]]);
    assert_eq!(start.elapsed(), 2 * SECOND);
}

#[tokio::test]
async fn awaiting_and_synchronous_code_share_a_batch() {
    let doubler = Arc::new(Doubler::default());
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let missed = promises.load(&doubler, 1);
        let awaited = promises.load_async(&doubler, 2).await?;
        let read = promises.load(&doubler, 1)?;
        Ok(format!("{} {awaited:?} {read:?}", missed.is_ok()))
    });
    let answer = answer.await.unwrap();
    // The first read found no value, which costs a pass.
    assert_eq!(
        (answer.body.as_str(), answer.passes),
        ("true Some(4) Some(2)", 2)
    );
    assert_eq!(doubler.calls(), [[1, 2]]);
}

#[tokio::test]
async fn an_awaited_error_reaches_every_waiter_and_the_next_pass_loads_again() {
    let doubler = Arc::new(Doubler {
        failures: Mutex::new(1),
        ..Default::default()
    });
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        let reads = join_all([1, 2, 1].map(|key| promises.load_async(&doubler, key))).await;
        if promises.pass() == 1 {
            assert!(reads.iter().all(Result::is_err), "{reads:?}");
            assert!(promises.load_async(&doubler, 1).await.is_err());
        }
        promises.result_or_submit("other", async || ())?;
        Ok(format!("{:?}", reads[0].as_ref().unwrap()))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("Some(2)", 2));
    assert_eq!(doubler.calls(), [[1, 2], [1, 2]]);
}

#[tokio::test(start_paused = true)]
async fn a_key_of_a_dropped_waiter_can_be_loaded_again() {
    let doubler = Arc::new(Doubler {
        delay: 2 * SECOND,
        ..Default::default()
    });
    let answer = ask_async(PromiseLayer::new(), async |promises: Promises| {
        assert!(
            timeout(SECOND, promises.load_async(&doubler, 1))
                .await
                .is_err()
        );
        assert!(!promises.clear_loaded(&doubler, &1));
        // The key is requested again, and loaded.
        Ok(format!("{:?}", promises.load_async(&doubler, 1).await?))
    });
    let answer = answer.await.unwrap();
    assert_eq!((answer.body.as_str(), answer.passes), ("Some(2)", 1));
    assert_eq!(doubler.calls(), [[1], [1]]);
}

#[tokio::test]
async fn too_many_promises_and_ended_requests_are_errors() {
    let doubler = Arc::new(Doubler::default());
    let kept = Mutex::new(None);
    let answer = ask(PromiseLayer::new().max_promises(0), |promises| {
        *kept.lock().unwrap() = Some(promises.clone());
        let error = promises.load(&doubler, 1).unwrap_err();
        assert!(matches!(error, PromiseError::Rejected { .. }), "{error:?}");
        assert!(promises.loading(&doubler).is_empty());
        Ok(String::new())
    });
    assert_eq!(answer.await.unwrap().status, 500);
    let promises = kept.into_inner().unwrap().unwrap();
    let error = promises.load(&doubler, 1).unwrap_err();
    assert!(matches!(error, PromiseError::Ended { .. }), "{error:?}");
    assert_eq!(Arc::strong_count(&doubler), 1);
}

#[test]
fn a_test_sees_the_keys_that_a_handler_requests() {
    let doubler = Arc::new(Doubler::default());
    let handler = |promises: &Promises| promises.load_many(&doubler, [2, 1, 2]);

    let promises = Promises::with_results(PromiseResults::new());
    assert!(handler(&promises).unwrap_err().is_pending());
    assert_eq!(promises.loading(&doubler), [2, 1]);
    assert_eq!(promises.keys(), ["Doubler#0 batch 1"]);

    let promises = Promises::with_results(PromiseResults::new());
    promises.prime(&doubler, 1, 10);
    promises.prime(&doubler, 2, 20);
    assert_eq!(handler(&promises).unwrap(), [Some(20), Some(10), Some(20)]);
}

#[test]
fn a_dropped_handle_for_tests_drops_its_loaders() {
    let doubler = Arc::new(Doubler::default());
    let promises = Promises::with_results(PromiseResults::new());
    assert!(promises.load(&doubler, 1).is_err());
    drop(promises);
    assert_eq!(Arc::strong_count(&doubler), 1);
}

/// A generic loader, whose types differ in their name only by their argument.
struct Named<T>(&'static str, std::marker::PhantomData<fn() -> T>);

impl<T: 'static> Loader for Named<T> {
    type Key = i32;
    type Value = i32;
    type Error = BoxError;

    async fn load(&self, _: &[i32]) -> Result<HashMap<i32, i32>, BoxError> {
        Ok(HashMap::new())
    }

    fn name(&self) -> &str {
        self.0
    }
}

#[test]
fn a_batch_has_the_name_of_its_loader() {
    let promises = Promises::with_results(PromiseResults::new());
    let (brands, prices) = (
        Arc::new(Named::<u8>("brands", std::marker::PhantomData)),
        Arc::new(Named::<u16>("prices", std::marker::PhantomData)),
    );
    assert!(promises.load(&brands, 1).is_err());
    assert!(promises.load(&prices, 1).is_err());
    assert!(promises.load(&Arc::new(Doubler::default()), 1).is_err());
    let keys = promises.keys();
    assert_eq!(keys.len(), 3);
    for (key, name) in keys.iter().zip(["brands#", "prices#", "Doubler#"]) {
        assert!(key.as_str().starts_with(name), "{key} {name}");
    }
}
