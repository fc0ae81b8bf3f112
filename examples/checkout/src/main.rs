//! An order that survives the death of its process. A `POST` reserves stock, charges a card, waits for a human's
//! approval, sleeps and ships. Two instances of the shop run such orders, and either of them can be killed at any step:
//! the other one continues, and the card is charged once.
//!
//! Start it with `cargo run -p example-checkout`. One command starts three processes: the two instances, and a
//! supervisor with a proxy and the *world*, which is all that the shop calls: a warehouse, a payment provider, a mailbox
//! and a carrier. `BACKEND` selects what the instances share: `sqlite:path`, `nats:url`, or `sqlite` (a temporary file,
//! the default). `ADDR` and `WORLD_ADDR` are the addresses of the shop and of the world.

mod instances;
mod pages;
mod proxy;
mod shop;
mod supervisor;
mod world;

use std::env;
use std::process::ExitCode;
use tower_promises::BoxError;
use tower_promises::backend::Backend;
use tower_promises_nats::{NatsBackend, async_nats};
use tower_promises_sqlite::SqliteDatabase;

/// Opens the backend that the instances share.
async fn open(name: &str) -> Result<Backend, BoxError> {
    match name.split_once(':') {
        Some(("nats", url)) => {
            let client = async_nats::connect(url).await?;
            Ok(NatsBackend::open(client).await?.backend())
        }
        Some(("sqlite", path)) => Ok(SqliteDatabase::open(path).await?.backend()),
        _ => Err(
            format!("unknown backend `{name}`: it is `sqlite`, `sqlite:path` or `nats:url`").into(),
        ),
    }
}

async fn run() -> Result<(), BoxError> {
    match env::args().nth(1).as_deref() {
        None => supervisor::run().await,
        Some("shop") => shop::run().await,
        Some(role) => Err(format!("unknown role `{role}`").into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
