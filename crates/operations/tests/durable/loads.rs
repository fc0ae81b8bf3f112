//! Values that a loader loads once for all runs.

use crate::process::{Process, layer, settled};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use test_support::operation::SECOND;
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::loader::Loader;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// Prices that rise with each call. Article 0 has no price.
#[derive(Default)]
struct Prices {
    calls: Mutex<Vec<Vec<u32>>>,
    fails: bool,
    panics: bool,
    never_answers: bool,
}

impl Prices {
    fn calls(&self) -> Vec<Vec<u32>> {
        self.calls.lock().unwrap().clone()
    }
}

impl Loader for Prices {
    type Key = u32;
    type Value = usize;
    type Error = BoxError;

    async fn load(&self, articles: &[u32]) -> Result<HashMap<u32, usize>, BoxError> {
        let call = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(articles.to_vec());
            calls.len()
        };
        if self.never_answers {
            std::future::pending::<()>().await;
        }
        assert!(!self.panics || call > 1, "the loader fell over");
        if self.fails {
            return Err("no connection".into());
        }
        let known = articles.iter().filter(|article| **article > 0);
        Ok(known.map(|article| (*article, call)).collect())
    }
}

fn prices(
    promises: &Promises,
    prices: &Arc<Prices>,
    articles: &[u32],
) -> Result<Vec<Option<usize>>, PromiseError> {
    let load = |article: &u32| promises.durable_load(format!("price {article}"), prices, *article);
    let loaded: Vec<_> = articles.iter().map(load).collect();
    loaded.into_iter().collect()
}

#[tokio::test(start_paused = true)]
async fn a_later_run_reads_what_an_earlier_one_has_loaded_in_one_call() {
    let loader = Arc::new(Prices::default());
    let of_handler = loader.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        let before = prices(promises, &of_handler, &[1, 2, 0, 1])?;
        promises.sleep("night", 50 * SECOND)?;
        let after = prices(promises, &of_handler, &[2, 0, 3])?;
        Ok(format!("{before:?} {after:?}"))
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let result = process.result(&path).await;
    assert_eq!(
        result.1,
        "[Some(1), Some(1), None, Some(1)] [Some(1), None, Some(2)]"
    );
    assert_eq!(loader.calls(), [vec![1, 2, 0], vec![3]]);
}

#[tokio::test(start_paused = true)]
async fn values_that_are_loaded_together_are_stored_together() {
    let backend = Backend::memory();
    let loader = Arc::new(Prices::default());
    let of_handler = loader.clone();
    let process = Process::start(layer(&backend), move |promises| {
        let prices = prices(promises, &of_handler, &(1..=50).collect::<Vec<_>>())?;
        promises.sleep("night", 50 * SECOND)?;
        Ok(prices.len().to_string())
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let id = path.rsplit('/').next().unwrap();
    let recorded = process.operations.recording(id).await.unwrap().unwrap();
    assert_eq!(recorded.to_json().matches("price").count(), 50);
    assert_eq!(process.result(&path).await.1, "50");
    assert_eq!(loader.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_loader_is_remembered() {
    let fails = true;
    let loader = Arc::new(Prices {
        fails,
        ..Prices::default()
    });
    let of_handler = loader.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        let price = promises.durable_load("price", &of_handler, 1);
        settled(&price)?;
        promises.sleep("night", 50 * SECOND)?;
        price.map(|_| String::new())
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let result = process.result(&path).await;
    assert_eq!(result.1, "promise `price` failed: no connection");
    assert_eq!(loader.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_the_loader_is_remembered_as_such() {
    let never_answers = true;
    let loader = Arc::new(Prices {
        never_answers,
        ..Prices::default()
    });
    let of_handler = loader.clone();
    let promises = PromiseLayer::new().promise_timeout(SECOND);
    let process = Process::with(layer(&Backend::memory()), promises, move |promises| {
        let price = promises.durable_load("price", &of_handler, 1);
        settled(&price)?;
        promises.sleep("night", 50 * SECOND)?;
        let has_timed_out = matches!(price, Err(PromiseError::TimedOut { .. }));
        Ok(has_timed_out.to_string())
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    assert_eq!(process.result(&path).await.1, "true");
    assert_eq!(loader.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_loader_is_not_remembered() {
    let panics = true;
    let loader = Arc::new(Prices {
        panics,
        ..Prices::default()
    });
    let of_handler = loader.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        let price = promises.durable_load("price", &of_handler, 1);
        settled(&price)?;
        promises.sleep("night", 50 * SECOND)?;
        Ok(format!("{price:?}"))
    });
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let id = path.rsplit('/').next().unwrap();
    let recorded = process.operations.recording(id).await.unwrap().unwrap();
    assert!(!recorded.to_json().contains("price"));
    assert_eq!(process.result(&path).await.1, "Ok(Some(2))");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_lost_while_it_loads_loads_again() {
    let backend = Backend::memory();
    let slow = Arc::new(Prices {
        never_answers: true,
        ..Prices::default()
    });
    let handler = |loader: Arc<Prices>| {
        move |promises: &Promises| Ok(format!("{:?}", prices(promises, &loader, &[1, 2])?))
    };
    let mut one = Process::start(layer(&backend), handler(slow));
    let path = one.begin("POST /").await;
    one.kill().await;
    let fast = Arc::new(Prices::default());
    let other = Process::start(layer(&backend), handler(fast));
    assert_eq!(other.result(&path).await.1, "[Some(1), Some(1)]");
}

/// In a request that is no durable operation.
#[tokio::test(start_paused = true)]
async fn a_load_outside_of_a_durable_operation_is_an_ordinary_one() {
    let loader = Arc::new(Prices::default());
    let of_handler = loader.clone();
    let process = Process::start(layer(&Backend::memory()), move |promises| {
        let loaded = prices(promises, &of_handler, &[1, 2])?;
        let again = promises.load(&of_handler, 2)?;
        Ok(format!("{loaded:?} {again:?}"))
    });
    let answer = process.ask("GET /").await;
    assert_eq!(answer.body, "[Some(1), Some(1)] Some(1)");
    sleep(SECOND).await;
    assert_eq!(loader.calls(), [[1, 2]]);
}
