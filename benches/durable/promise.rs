//! The cost of a durable promise.
//!
//! A handler requests promises one after the other, each in a pass of its own, with a future that is ready at once and
//! a value of 64 bytes. The time from pass to pass is the cost of a promise. Operations with durable promises, requests
//! with ordinary ones and the bare client alternate, so that other load of the machine meets all of them.

use crate::server::{Server, layer};
use axum::body::Body;
use axum::extract::Request;
use benches::bare::BareTable;
use benches::{Percentiles, row};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tower_promises::backend::Backend;
use tower_promises::{PromiseError, Promises};

/// The promises of a request.
const CHAIN: usize = 20;

/// The promises of a pass that requests several.
const TOGETHER: usize = 20;

/// The requests of each kind.
const ROUNDS: usize = 100;

/// The rounds that do not count.
const WARM_UP: usize = 10;

const VALUE: [u8; 64] = [b'v'; 64];

const COLUMNS: [&str; 7] = [
    "backend",
    "durable p50 / p99, ms",
    "each of 20 in a pass, ms",
    "ordinary p50 / p99, ms",
    "one INSERT, bare, p50 / p99, ms",
    "durable, times bare",
    "each of 20, times bare",
];

pub(crate) fn head() {
    benches::head(&COLUMNS);
}

/// The times between passes.
#[derive(Clone, Default)]
struct Passes(Arc<Mutex<Vec<Instant>>>);

impl Passes {
    fn begin(&self) {
        self.0.lock().unwrap().push(Instant::now());
    }

    /// Returns the times between the passes since the last call.
    fn take(&self) -> Vec<Duration> {
        let passes = std::mem::take(&mut *self.0.lock().unwrap());
        passes.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// Requests promises: one after the other, and then several at once. In a request that is not durable they are ordinary.
fn chain(promises: &Promises) -> Result<String, PromiseError> {
    let value = || std::future::ready(String::from_utf8_lossy(&VALUE).into_owned());
    for number in 0..CHAIN {
        promises.durable(format!("step {number}"), value)?;
    }
    let request = |number| promises.durable(format!("together {number}"), value);
    let together: Vec<_> = (0..TOGETHER).map(request).collect();
    together.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(String::new())
}

pub(crate) async fn measure(name: &str, backend: Backend, directory: &Path) {
    eprintln!("{name}: {ROUNDS} chains of promises …");
    let passes = Passes::default();
    let noted = passes.clone();
    let server = Server::start(
        layer(backend).wait(Duration::from_secs(60)),
        move |promises| {
            noted.begin();
            chain(promises)
        },
    );
    let mut table = BareTable::create(&directory.join(format!("{name}.bare.db"))).await;
    let (mut durable, mut together) = (Vec::new(), Vec::new());
    let (mut ordinary, mut bare) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + ROUNDS {
        for (request, is_durable) in [(Request::post("/"), true), (Request::get("/"), false)] {
            let response = server.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(response.status(), 200);
            let mut times = passes.take();
            assert_eq!(times.len(), CHAIN + 1);
            let last = times.pop().unwrap_or_default();
            match is_durable {
                _ if round < WARM_UP => {}
                true => {
                    durable.extend(times);
                    together.push(last / u32::try_from(TOGETHER).unwrap());
                }
                false => ordinary.extend(times),
            }
        }
        for _ in 0..CHAIN {
            let start = Instant::now();
            table.insert(&VALUE).await;
            if round >= WARM_UP {
                bare.push(start.elapsed());
            }
        }
    }
    server.end().await;
    let [durable, together, ordinary, bare] =
        [durable, together, ordinary, bare].map(Percentiles::of);
    let cells = [
        name.to_owned(),
        durable.to_string(),
        format!("{:.4}", together.p50),
        ordinary.to_string(),
        bare.to_string(),
        format!("{:.2}", durable.p50 / bare.p50),
        format!("{:.2}", together.p50 / bare.p50),
    ];
    row(&cells, COLUMNS.len());
}
