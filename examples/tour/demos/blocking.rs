//! Computations run beside each other on a bounded pool of threads.

use super::Result;
use crate::stage::Stage;
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use tower_promises::blocking::{self, BlockingPool};
use tower_promises::{BoxError, OrPending, PromiseLayer, Promises};

// tour: begin
const LIMITS: [u32; 4] = [20_000, 30_000, 40_000, 50_000];

/// Occupies its thread. It ends early if the client has gone.
fn primes(limit: u32) -> usize {
    let numbers = (2..limit).take_while(|_| !blocking::is_cancelled());
    numbers.filter(|number| is_prime(*number)).count()
}

fn row(promises: &Promises, limit: u32) -> Result<String> {
    let name = format!("below {limit}");
    let count = promises.result_or_submit_blocking(name, move || primes(limit));
    let count = count.or_pending(0)?;
    Ok(format!("<tr><td>below {limit}</td><td>{count}</td></tr>"))
}

fn layer() -> PromiseLayer {
    let pool = BlockingPool::builder().max_running(2).max_waiting(64);
    PromiseLayer::new().blocking(pool.build())
}
// tour: end

fn is_prime(number: u32) -> bool {
    let mut divisors = (2..number).take_while(|divisor| divisor * divisor <= number);
    !divisors.any(|divisor| number % divisor == 0)
}

async fn page(promises: Promises) -> Result<Html<String>> {
    let rows = LIMITS.map(|limit| row(&promises, limit));
    let rows = rows.into_iter().collect::<Result<String>>()?;
    Ok(Html(format!("<h1>Prime numbers</h1><table>{rows}</table>")))
}

pub(super) fn router(stage: &Stage) -> Result<Router, BoxError> {
    let routes = Router::new().route("/blocking", get(page));
    Ok(stage.around(routes.layer(layer())))
}
