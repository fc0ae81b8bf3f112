//! An upstream service that is slow and fails now and then. The crate backon retries each call with a growing delay. A
//! cache of the crate moka shares the answers among all requests, and lets only one of many concurrent requests call
//! the upstream.
//!
//! Start it with `cargo run --example upstream`.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::{Router, routing::get};
use backon::{ExponentialBuilder, Retryable};
use moka::future::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::sleep;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// Simulates a remote service. Two of three calls fail.
#[derive(Clone, Default)]
struct Upstream {
    calls: Arc<AtomicUsize>,
}

impl Upstream {
    async fn price(&self, item: &str) -> Result<usize, BoxError> {
        sleep(Duration::from_millis(100)).await;
        match self.calls.fetch_add(1, Ordering::Relaxed) % 3 {
            2 => Ok(item.len()),
            _ => Err("no connection".into()),
        }
    }

    async fn price_in_the_end(&self, item: &str) -> Result<usize, BoxError> {
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(20))
            .with_max_times(5)
            .with_jitter();
        (|| self.price(item)).retry(delays).await
    }
}

#[derive(Clone)]
struct Shop {
    upstream: Upstream,
    prices: Cache<String, usize>,
}

impl Shop {
    async fn price(self, item: String) -> Result<usize, Arc<BoxError>> {
        let ask = async { self.upstream.price_in_the_end(&item).await };
        self.prices.try_get_with_by_ref(&item, ask).await
    }
}

async fn page(
    State(shop): State<Shop>,
    Path(item): Path<String>,
    promises: Promises,
) -> Result<impl IntoResponse, PromiseError> {
    let calls = shop.upstream.calls.clone();
    let ask = || {
        let price = shop.price(item.clone());
        async { price.await.map_err(|error| error.to_string()) }
    };
    // The name contains the input of the promise.
    let price = promises.result_or_try_submit(format!("price:{item}"), ask)?;
    let calls = calls.load(Ordering::Relaxed);
    Ok(format!("{item} for {price} coins, {calls} calls so far\n"))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let shop = Shop {
        upstream: Upstream::default(),
        prices: Cache::builder()
            .max_capacity(10_000)
            .time_to_live(Duration::from_secs(60))
            .build(),
    };
    let app = Router::new()
        .route("/{item}", get(page))
        .layer(PromiseLayer::new().promise_timeout(Duration::from_secs(10)))
        .with_state(shop);

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try");
    println!("  curl http://{address}/tea     # three calls, two of which fail");
    println!("  seq 100 | xargs -P 100 -I% curl -s http://{address}/cake     # three more for all");
    axum::serve(listener, app).await
}
