//! Code that the tests of the PostgreSQL adapters share.
#![allow(unreachable_pub)]

use futures_util::StreamExt;
use std::time::Duration;
use test_support::postgres::pooler::Pooler;
use test_support::postgres::shared;
use tokio::sync::OnceCell;
use tower_promises_backend::{BusEvent, BusStream, Change, WatchStream};
use tower_promises_postgres::{PostgresBuilder, PostgresDatabase};

pub use test_support::eventually::{eventually, soon, until};
pub use test_support::postgres::SECOND;
pub use test_support::task::chain;

/// Longer than any test, as a lease or as a time to live.
pub const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// A builder with time for a busy machine. A deadline is not what most tests test.
pub fn builder() -> PostgresBuilder {
    PostgresDatabase::builder()
        .timeout(SECOND * 60)
        .max_connections(8)
}

/// An empty database on the shared server.
pub struct Place {
    pub url: String,
}

pub async fn place() -> Place {
    let url = shared().await.database().await;
    Place { url }
}

impl Place {
    pub async fn open(&self) -> PostgresDatabase {
        builder().connect(&self.url).await.unwrap()
    }

    /// The same database behind PgBouncer.
    pub async fn behind_a_pooler(&self) -> Self {
        static POOLER: OnceCell<Pooler> = OnceCell::const_new();
        let server = shared().await.port();
        let pooler = POOLER.get_or_init(|| Pooler::start(server)).await;
        let name = self.url.rsplit('/').next().unwrap();
        Self {
            url: pooler.url_of(name),
        }
    }
}

pub async fn hear(listener: &mut BusStream) -> BusEvent {
    soon(listener.next()).await.unwrap().unwrap()
}

pub async fn see(watch: &mut WatchStream) -> Change {
    soon(watch.next()).await.unwrap().unwrap()
}

pub fn message(topic: &str, payload: &'static str) -> BusEvent {
    BusEvent::Message {
        topic: topic.into(),
        payload: payload.into(),
    }
}
