//! Envelopes that are enqueued and handled while something fails.
//!
//! The handler of an envelope records its end in the store, where it can be recorded once.
#![allow(unreachable_pub)]

use futures_util::stream::{self, StreamExt};
use futures_util::{FutureExt, future};
use std::sync::Arc;
use std::time::Duration;
use test_support::eventually::{PAUSE, eventually, soon, until};
use test_support::postgres::SECOND;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower_promises_backend::{
    Backend, CompareAndSet, Delivery, Envelope, Outcome, Store, WorkOptions,
};
use tower_promises_postgres::sqlx::postgres::PgConnection;
use tower_promises_postgres::sqlx::{Connection, query_as};
use tower_promises_postgres::{PostgresBuilder, PostgresDatabase};

pub const ENVELOPES: usize = 1000;

/// The lease of the workers. It ends soon after a failure, and not before a busy machine renews it.
const LEASE: Duration = Duration::from_secs(5);

/// A builder with a timeout that ends before a lease.
pub fn builder() -> PostgresBuilder {
    PostgresDatabase::builder()
        .timeout(SECOND * 4)
        .deduplication_window(SECOND * 3600)
}

/// A process that enqueues all envelopes, and one that handles them.
pub struct Load {
    url: String,
    enqueued: JoinHandle<usize>,
    worker: JoinHandle<()>,
}

impl Load {
    pub async fn start(url: String) -> Self {
        let connect = async || builder().connect(&url).await.unwrap().backend();
        let (client, worker) = (connect().await, connect().await);
        Self {
            enqueued: tokio::spawn(async move { enqueue(&client).await }),
            worker: work(worker),
            url,
        }
    }

    /// Whether all envelopes are enqueued.
    pub fn is_enqueued(&self) -> bool {
        self.enqueued.is_finished()
    }

    /// Waits until this number of envelopes has ended.
    pub async fn reaches(&self, number: usize) {
        until("a part of the envelopes has ended", async || {
            ended(&self.url).await >= number
        })
        .await;
    }

    /// Waits until all envelopes are enqueued and have ended.
    pub async fn ends(self) {
        let failures = soon(self.enqueued).await.unwrap();
        all_have_ended(&self.url).await;
        println!("{failures} calls of `enqueue` have failed");
        assert!(!self.worker.is_finished());
        self.worker.abort();
    }
}

/// Enqueues all envelopes. A call that fails is repeated until the envelope is acknowledged. Returns the number of calls
/// that have failed.
pub async fn enqueue(backend: &Backend) -> usize {
    let calls = stream::iter(0..ENVELOPES).map(async |number| {
        let envelope = Envelope::new("queue", number.to_string(), "x".into());
        let mut failures = 0;
        // So slowly that what fails also meets calls of this function.
        sleep(PAUSE).await;
        while backend.queue().enqueue(envelope.clone()).await.is_err() {
            failures += 1;
            sleep(PAUSE).await;
        }
        failures
    });
    calls
        .buffer_unordered(8)
        .fold(0, async |sum, failures| sum + failures)
        .await
}

/// Works until the returned task is aborted.
pub fn work(backend: Backend) -> JoinHandle<()> {
    let handler_backend = backend.clone();
    let handler = move |delivery: Delivery| handle(handler_backend.clone(), delivery);
    tokio::spawn(async move {
        let options = WorkOptions::new("queue").lease(LEASE);
        let forever = future::pending().boxed();
        let worked = backend.queue().work(options, Arc::new(handler), forever);
        worked.await.unwrap();
    })
}

async fn handle(backend: Backend, delivery: Delivery) -> Outcome {
    sleep(Duration::from_millis(2)).await;
    let key = format!("end/{}", delivery.id);
    match backend
        .store()
        .compare_and_set(&key, None, "x".into(), None)
        .await
    {
        // A conflict means that an earlier delivery has recorded the end, or an earlier call.
        Ok(CompareAndSet::Set(_) | CompareAndSet::Conflict) => Outcome::Done,
        Err(_) => Outcome::Retry {
            after: Duration::from_millis(100),
        },
    }
}

/// Waits until all envelopes have ended. Each has one recorded end, and nothing is left.
pub async fn all_have_ended(url: &str) {
    let ended = eventually("the end of all envelopes", async || {
        let (open, ended) = count(url).await?;
        (open == 0 && ended == i64::try_from(ENVELOPES).unwrap()).then_some(ended)
    });
    ended.await;
    let database = builder().connect(url).await.unwrap();
    let store = database.store();
    let (mut recorded, mut after) = (0, None);
    loop {
        let page = store.list("end/", after.as_deref(), 1000).await.unwrap();
        // Revisions rise with each change, so a key that was set twice would have another value for each.
        recorded += page.entries.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(recorded, ENVELOPES);
}

/// The number of envelopes that have not ended, and of those that have, if the server answers.
async fn count(url: &str) -> Option<(i64, i64)> {
    let mut connection = PgConnection::connect(url).await.ok()?;
    let count =
        "SELECT count(*) FILTER (WHERE ended IS NULL), count(ended) FROM tower_promises.envelopes";
    query_as(count).fetch_one(&mut connection).await.ok()
}

/// The number of envelopes that have ended so far.
pub async fn ended(url: &str) -> usize {
    let counted = count(url).await.map_or(0, |(_, ended)| ended);
    usize::try_from(counted).unwrap()
}
