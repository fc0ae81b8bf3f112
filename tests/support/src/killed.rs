//! Durable requests in real processes that are killed at random.
//!
//! `DURABLE_OPERATIONS` sets the number of requests for each backend, 60 by default. A test binary that calls
//! [`orders_survive`] has a test `the_worker` that calls [`work`].

use crate::child::{ChildProcess, end_with_parent};
use crate::operation::{Answer, SECOND, read, request};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_promises::backend::Backend;
use tower_promises::operations::durable::Settlement;
use tower_promises::operations::{OperationLayer, Operations};
use tower_promises::{PromiseError, PromiseLayer, Promises};

/// The environment variables of the worker processes: the address of the backend, and the path of the ledger.
const BACKEND: &str = "TEST_DURABLE_BACKEND";
const LEDGER: &str = "TEST_DURABLE_LEDGER";

const WORKERS: usize = 3;

/// The number of requests that are under way at the same time.
const LOAD: usize = 64;

/// The time in which an operation ends, although its processes are killed.
const PATIENCE: Duration = Duration::from_secs(240);

fn layer(backend: Backend) -> OperationLayer {
    OperationLayer::new(backend)
        .durable(|_| true)
        .lease(2 * SECOND)
        .wait(Duration::ZERO)
        .max_recoveries(100)
        .idempotency_keys(true)
}

/// What has happened in all processes, in order. A line is one write, so lines do not mix.
#[derive(Clone)]
struct Ledger(PathBuf);

impl Ledger {
    fn note(&self, what: &str, promise: &str, order: &str) {
        let file = OpenOptions::new().append(true).create(true).open(&self.0);
        let line = format!("{what} {promise} {order}\n");
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn step(
        &self,
        promises: &Promises,
        name: &'static str,
        order: &str,
    ) -> Result<String, PromiseError> {
        let (ledger, noted) = (self.clone(), order.to_owned());
        let key = promises.idempotency_key(name).unwrap();
        let value = promises.durable(name, move || async move {
            ledger.note("begins", name, &noted);
            sleep(SECOND / 20).await;
            ledger.note("charges", &key, &noted);
            name.to_owned()
        })?;
        self.note("reads", name, order);
        Ok(value)
    }

    fn order(&self, promises: &Promises) -> Result<String, PromiseError> {
        let order = promises.idempotency_key("order").unwrap();
        let charge = self.step(promises, "charge", &order)?;
        promises.sleep("pause", SECOND + SECOND / 2)?;
        let approval: String = promises.outside("approval")?;
        let ship = self.step(promises, "ship", &order)?;
        Ok(format!("{order} {charge} {approval} {ship}"))
    }

    /// Checks that no promise has run again after it was read, and that each effect has one key.
    fn check(&self, orders: &HashSet<String>) {
        let lines = std::fs::read_to_string(&self.0).unwrap();
        let mut was_read = HashSet::new();
        let mut charges: HashMap<&str, HashSet<&str>> = HashMap::new();
        for line in lines.lines() {
            let [what, name, order] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            match what {
                "reads" => drop(was_read.insert((name, order))),
                "begins" => assert!(!was_read.contains(&(name, order)), "{line}: again"),
                _ => drop(charges.entry(order).or_default().insert(name)),
            }
        }
        assert_eq!(charges.len(), orders.len());
        for (order, keys) in charges {
            assert!(orders.contains(order));
            assert_eq!(keys.len(), 2, "one charge and one shipment: {order}");
        }
    }
}

/// Starts a worker process.
fn worker(address: &str, ledger: &Path) -> ChildProcess {
    let environment = [(BACKEND, OsStr::new(address)), (LEDGER, ledger.as_os_str())];
    ChildProcess::start("the_worker", environment, "it works").0
}

/// Takes up runs until the process that started this one ends.
///
/// # Panics
///
/// Panics in a process that [`orders_survive`] has not started.
pub async fn work(open: impl AsyncFnOnce(&str) -> Backend) {
    let address = std::env::var(BACKEND).expect("other tests start this one with a backend");
    end_with_parent();
    let ledger = Ledger(std::env::var_os(LEDGER).unwrap().into());
    let answer = async move |promises: Promises| match ledger.order(&promises) {
        Ok(text) => (http::StatusCode::OK, text),
        Err(error) => (error.status(), error.to_string()),
    };
    let inner = Router::new().fallback(answer).layer(PromiseLayer::new());
    let operations = layer(open(&address).await).operations();
    println!("it works");
    operations.work::<_, Body, _>(inner).await.unwrap();
}

async fn send(app: &Router, request: Request) -> Answer {
    let response = app.clone().oneshot(request).await;
    read(response.unwrap_or_else(|never| match never {})).await
}

/// Sends an order, approves it, and returns its name once it has ended.
async fn order(app: Router, operations: Operations, number: usize) -> String {
    let key = number.to_string();
    let answer = loop {
        let order = request("POST /order", &[("idempotency-key", &key)]);
        let answer = send(&app, order).await;
        if answer.status == 202 {
            break answer;
        }
        // A busy machine may exceed the time for a call of the backend. With its key, the request is the same operation.
        assert_eq!(answer.status, 503, "{answer:?}");
        sleep(SECOND / 2).await;
    };
    let path = answer.header("operation-location").to_owned();
    let id = path.rsplit('/').next().unwrap();
    let yes = Settlement::value(&"yes").unwrap();
    while operations.settle(id, "approval", &yes).await.is_err() {
        sleep(SECOND / 2).await;
    }
    let result = async {
        loop {
            let answer = send(&app, request(&format!("GET {path}/result"), &[])).await;
            if answer.status == 200 {
                break answer.body;
            }
            assert!(matches!(answer.status.as_u16(), 202 | 503), "{answer:?}");
            sleep(SECOND / 2).await;
        }
    };
    let result = timeout(PATIENCE, result).await.expect("the order ends");
    let order = result.split(' ').next().unwrap().to_owned();
    assert_eq!(result, format!("{order} charge yes ship"));
    order
}

/// Sends orders, and kills workers meanwhile. The workers get the address.
///
/// # Panics
///
/// Panics if an order does not end, or if a promise runs again after its value was read.
pub async fn orders_survive(address: &str, backend: Backend) {
    let number = std::env::var("DURABLE_OPERATIONS").ok();
    let number: usize = number.map_or(60, |number| number.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger");
    let layer = layer(backend);
    let operations = layer.operations();
    let app = Router::new().layer(layer);
    let began = Instant::now();
    let mut running = JoinSet::new();
    let load = Arc::new(Semaphore::new(LOAD));
    for number in 0..number {
        let (app, operations, load) = (app.clone(), operations.clone(), load.clone());
        running.spawn(async move {
            let _permit = load.acquire().await.unwrap();
            order(app, operations, number).await
        });
    }
    let mut workers: Vec<_> = (0..WORKERS).map(|_| worker(address, &ledger)).collect();
    let mut kills = 0;
    let mut orders = HashSet::new();
    loop {
        // Not a multiple of the lease, so that kills meet all stages.
        match timeout(Duration::from_millis(700), running.join_next()).await {
            Ok(None) => break,
            Ok(Some(order)) => {
                assert!(orders.insert(order.unwrap()), "each order ends once");
                if began.elapsed() < kills * Duration::from_millis(700) {
                    continue;
                }
            }
            Err(_) => {}
        }
        let victim = usize::try_from(kills).unwrap() % WORKERS;
        drop(workers.remove(victim));
        workers.insert(victim, worker(address, &ledger));
        kills += 1;
    }
    assert_eq!(orders.len(), number);
    assert!(kills > 0);
    Ledger(ledger).check(&orders);
    let seconds = began.elapsed().as_secs();
    println!("{number} orders, {kills} killed processes, {seconds} s");
}
