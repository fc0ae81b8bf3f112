//! A process whose clock is wrong by an hour: all times are those of the server.
//!
//! The tests need libfaketime, which `.ci/install` installs.

use crate::load::builder;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use test_support::eventually::until;
use test_support::postgres::{SECOND, shared};
use test_support::remote::Process;
use tower_promises_backend::{Envelope, Outcome, Queue, Store, conformance};

/// The path of the library on Debian, below a folder for libraries.
const LIBRARY: &str = "faketime/libfaketime.so.1";

fn library() -> String {
    let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = ["/usr/lib", "/usr/local/lib", "/usr/lib64"].map(PathBuf::from);
    let paths = folders
        .iter()
        .flat_map(|it| [it.join(&machine), it.clone()]);
    let found = paths
        .map(|folder| folder.join(LIBRARY))
        .find(|path| path.is_file());
    let found = found.expect("libfaketime is needed for this test: .ci/install installs it");
    found.display().to_string()
}

/// Starts a process whose clock is that of the machine plus an offset.
fn process(url: &str, offset: &str) -> Process {
    let environment = [
        ("LD_PRELOAD", &*library()),
        ("FAKETIME", offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    Process::start_with(url, &environment)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_times_to_live_conform_with_a_wrong_clock() {
    let url = shared().await.database().await;
    let here = builder().connect(&url).await.unwrap();
    for offset in ["+1h", "-1h"] {
        let there = process(&url, offset);
        let calls = AtomicUsize::new(0);
        let is_here = || calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        let queue = || -> Arc<dyn Queue> {
            if is_here() {
                Arc::new(here.queue())
            } else {
                Arc::new(there.adapter())
            }
        };
        let store = || -> Arc<dyn Store> {
            if is_here() {
                Arc::new(here.store())
            } else {
                Arc::new(there.adapter())
            }
        };
        conformance::queue_leases(async || queue()).await;
        conformance::queue_retries(async || queue()).await;
        conformance::queue_order(async || queue()).await;
        conformance::store_time_to_live(async || store()).await;
    }
}

/// What a process with a wrong clock begins has the right end in others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_wrong_clock_begins_ends_in_time() {
    let url = shared().await.database().await;
    let here = builder().connect(&url).await.unwrap();
    let (queue, store) = (here.queue(), here.store());
    for (number, offset) in ["+1h", "-1h"].into_iter().enumerate() {
        let there = process(&url, offset);
        let there = there.adapter();
        let name = format!("queue {number}");
        let time = Some(SECOND * 2);
        there.put(&name, "x".into(), time).await.unwrap();
        let late = Envelope::new(&*name, "late", "x".into()).delay(SECOND * 2);
        there.enqueue(late).await.unwrap();
        assert!(store.get(&name).await.unwrap().is_some());
        let taken = queue.take(&name, 1, SECOND * 60).await.unwrap().remove(0);
        assert!(queue.settle(&taken.receipt, Outcome::Done).await.unwrap());
        until("the value expires", async || {
            store.get(&name).await.unwrap().is_none()
        })
        .await;
    }
}
