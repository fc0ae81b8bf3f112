//! Recovery from data that the server has lost: streams and consumers that were deleted, that expired, or that were on
//! a disk or in memory that is gone.

use futures_util::future::{join_all, pending};
use futures_util::{FutureExt, StreamExt};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::Log;
use test_support::nats::{BOUND, PAUSE, SECOND, Server, soon, until};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tower_promises_backend::{
    BackendError, Bus, Change, CompareAndSet, Delivery, Enqueued, Envelope, Outcome, Queue,
    Revision, Store, WorkOptions,
};
use tower_promises_nats::async_nats::jetstream::{self, consumer};
use tower_promises_nats::{NatsBackend, NatsQueue};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(60 * 60);

const STREAMS: [&str; 3] = [
    "tower-promises-store",
    "tower-promises-queue",
    "tower-promises-leases",
];

async fn add(queue: &NatsQueue, id: &str) {
    let envelope = Envelope::new("work", id, "x".into());
    assert_eq!(queue.enqueue(envelope).await.unwrap(), Enqueued::Added);
}

async fn context(server: &Server) -> jetstream::Context {
    jetstream::new(server.client().await)
}

/// Returns the name of the consumer of the stream of envelopes, if it exists.
async fn consumer_name(server: &Server) -> Option<String> {
    let stream = context(server).await.get_stream(STREAMS[1]).await.ok()?;
    let mut names = stream.consumer_names();
    names.next().await?.ok()
}

/// A worker with one slot. Each handler waits for a permit.
struct Busy {
    began: Arc<Mutex<Vec<String>>>,
    permits: Arc<Semaphore>,
    worker: tokio::task::JoinHandle<Result<(), BackendError>>,
}

impl Busy {
    fn start(queue: NatsQueue) -> Self {
        let began = Arc::<Mutex<Vec<String>>>::default();
        let permits = Arc::new(Semaphore::new(0));
        let handler = {
            let (began, permits) = (began.clone(), permits.clone());
            move |delivery: Delivery| {
                began.lock().unwrap().push(delivery.id.to_string());
                let permits = permits.clone();
                async move {
                    permits.acquire().await.unwrap().forget();
                    Outcome::Done
                }
            }
        };
        let worker = tokio::spawn(async move {
            let options = WorkOptions::new("work").concurrency(1).lease(SECOND * 30);
            queue
                .work(options, Arc::new(handler), pending().boxed())
                .await
        });
        Self {
            began,
            permits,
            worker,
        }
    }

    async fn has_begun(&self, ids: &[&str]) {
        until(&format!("{ids:?} begin"), async || {
            self.began.lock().unwrap().iter().eq(ids)
        })
        .await;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// The server does not answer requests for a consumer that does not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_worker_whose_consumer_is_deleted_continues() {
    let server = Server::start().await;
    let queue = server.backend().await.queue();
    let busy = Busy::start(queue.clone());
    add(&queue, "first").await;
    busy.has_begun(&["first"]).await;
    let name = consumer_name(&server).await.unwrap();
    let stream = context(&server).await.get_stream(STREAMS[1]).await;
    stream.unwrap().delete_consumer(&name).await.unwrap();
    add(&queue, "second").await;
    busy.permits.add_permits(1);
    busy.has_begun(&["first", "second"]).await;
    busy.permits.add_permits(1);
    let messages = async || server.stream(STREAMS[1]).await.state.messages;
    until("both envelopes are deleted", async || messages().await == 0).await;
    let began = busy.began.lock().unwrap().clone();
    assert_eq!(began, ["first", "second"], "each task runs once");
}

/// The requests of the worker do not end for an hour, and no other worker would create the consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_pull_expiry_does_not_block_a_worker() {
    let server = Server::start().await;
    let builder = server.builder().await.pull_expiry(NEVER);
    let queue = builder.open().await.unwrap().queue();
    let busy = Busy::start(queue.clone());
    add(&queue, "first").await;
    busy.has_begun(&["first"]).await;
    let name = consumer_name(&server).await.unwrap();
    let stream = context(&server).await.get_stream(STREAMS[1]).await;
    stream.unwrap().delete_consumer(&name).await.unwrap();
    busy.permits.add_permits(1);
    // By then the worker has sent its request, which is not answered.
    sleep(SECOND).await;
    add(&queue, "second").await;
    busy.has_begun(&["first", "second"]).await;
}

/// Newer servers keep the consumer while an acknowledgement is missing, so no envelope is leased meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_consumer_expires_continues() {
    let server = Server::start().await;
    let queue = server.backend().await.queue();
    add(&queue, "first").await;
    let first = queue.take("work", 1, NEVER).await.unwrap().remove(0);
    assert!(queue.settle(&first.receipt, Outcome::Done).await.unwrap());
    // The consumer expires soon, instead of after a day.
    let name = consumer_name(&server).await.unwrap();
    let stream = context(&server).await.get_stream(STREAMS[1]).await.unwrap();
    let consumer: consumer::PullConsumer = stream.get_consumer(&name).await.unwrap();
    let mut config = consumer.cached_info().config.clone();
    config.inactive_threshold = SECOND / 10;
    stream.create_consumer(config).await.unwrap();
    until("the consumer expires", async || {
        consumer_name(&server).await.is_none()
    })
    .await;
    add(&queue, "second").await;
    let second = soon(queue.take("work", 1, NEVER)).await.unwrap().remove(0);
    assert_eq!((&*second.id, second.number), ("second", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_survives_the_loss_of_streams_in_memory() {
    let mut server = Server::start().await;
    let builder = server.builder().await.in_memory(true);
    let queue = builder.open().await.unwrap().queue();
    let busy = Busy::start(queue.clone());
    add(&queue, "first").await;
    busy.has_begun(&["first"]).await;
    server.kill();
    server.start_again().await;
    // Enough permits for all handlers.
    busy.permits.add_permits(100);
    let envelope = Envelope::new("work", "second", "x".into());
    until("the envelope is enqueued", async || {
        queue.enqueue(envelope.clone()).await.is_ok()
    })
    .await;
    busy.has_begun(&["first", "second"]).await;
}

/// Each call is the first call of an open process after the loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_recreates_lost_streams() {
    let mut server = Server::start().await;
    let open = async || {
        let builder = server.builder().await.deduplication_window(SECOND * 7);
        builder.open().await.unwrap()
    };
    let mut backends = Vec::new();
    for _ in 0..8 {
        backends.push(open().await);
    }
    let [get, put, set, delete, watch, enqueue, take, settle] = &backends[..] else {
        unreachable!("eight were opened")
    };
    let revision = put.store().put("key", "old".into(), None).await.unwrap();
    assert_eq!(
        get.store().get("key").await.unwrap().unwrap().revision,
        revision
    );
    add(&enqueue.queue(), "taken").await;
    let taken = settle
        .queue()
        .take("work", 1, NEVER)
        .await
        .unwrap()
        .remove(0);

    for round in 0..2 {
        // A worker that waits during all losses.
        let worker = tokio::spawn({
            let queue = take.queue();
            async move {
                loop {
                    match queue.take("work", 1, NEVER).await {
                        Ok(taken) => return taken,
                        Err(_) => sleep(PAUSE).await,
                    }
                }
            }
        });
        lose(&mut server, round).await;
        assert_eq!(once(async || get.store().get("key").await).await, None);
        lose(&mut server, round).await;
        once(async || put.store().put("key", "new".into(), None).await).await;
        lose(&mut server, round).await;
        let stale = once(async || {
            let store = set.store();
            let set = store.compare_and_set("key", Some(revision), "new".into(), None);
            set.await
        });
        assert_eq!(stale.await, CompareAndSet::Conflict);
        let fresh = once(async || {
            set.store()
                .compare_and_set("key", None, "new".into(), None)
                .await
        });
        assert_ne!(fresh.await, CompareAndSet::Conflict);
        lose(&mut server, round).await;
        assert!(!once(async || delete.store().delete("key").await).await);
        lose(&mut server, round).await;
        let mut changes = once(async || watch.store().watch("").await).await;
        once(async || put.store().put("key", "seen".into(), None).await).await;
        let change = soon(changes.next()).await.unwrap().unwrap();
        assert!(
            matches!(&change, Change::Put { entry, .. } if entry.value == "seen"),
            "{change:?}"
        );
        lose(&mut server, round).await;
        let envelope = Envelope::new("work", "id", "x".into());
        let enqueued = once(async || enqueue.queue().enqueue(envelope.clone()).await);
        assert_eq!(enqueued.await, Enqueued::Added);
        let found = soon(worker).await.unwrap().remove(0);
        assert_eq!(&*found.id, "id");
        assert!(
            take.queue()
                .settle(&found.receipt, Outcome::Done)
                .await
                .unwrap()
        );
        lose(&mut server, round).await;
        assert!(!once(async || settle.queue().renew(&taken.receipt, NEVER).await).await);
        lose(&mut server, round).await;
        assert!(!once(async || settle.queue().settle(&taken.receipt, Outcome::Done).await).await);

        // The new stream has the settings of the process that created it.
        let stream = server.stream(STREAMS[1]).await;
        assert_eq!(stream.config.duplicate_window, SECOND * 7);
        assert_eq!(
            enqueue.queue().capabilities().deduplication_window,
            SECOND * 7
        );
        // The bus stores nothing that could be lost.
        let bus = get.bus();
        let mut listener = once(async || bus.listen().await).await;
        once(async || put.bus().publish("topic", "x".into()).await).await;
        assert!(soon(listener.next()).await.unwrap().is_ok());
    }
}

/// Deletes the streams in the first round, and the disk of the server in later rounds.
async fn lose(server: &mut Server, round: usize) {
    if round > 0 {
        return server.start_empty().await;
    }
    for stream in STREAMS {
        let _ = context(server).await.delete_stream(stream).await;
    }
}

/// Returns the output of the first call after the client has connected again. Before that, calls may time out. All
/// other errors fail the test.
async fn once<T>(call: impl AsyncFn() -> Result<T, BackendError>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(Instant::now() < end, "{error:?}");
                assert!(is_away(&error), "{error:?}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether the client had no connection: a timeout, or a connection that ended during the call, which systems report
/// differently.
fn is_away(error: &BackendError) -> bool {
    if matches!(error, BackendError::TimedOut { .. }) {
        return true;
    }
    // Some errors of the client contain their cause only as text.
    let text = format!("{error:?}").to_lowercase();
    LOST.iter().any(|kind| {
        let name = format!("{kind:?}").to_lowercase();
        text.contains(&kind.to_string()) || text.contains(&name)
    })
}

/// The errors of a connection that the other side has closed.
const LOST: [io::ErrorKind; 5] = [
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::ConnectionRefused,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::NotConnected,
];

/// The log names each missing stream. It names none when the streams are created at the start.
#[tokio::test]
async fn recreated_streams_are_logged() {
    let log = Log::start();
    let server = Server::start().await;
    let backend = server.backend().await;
    assert!(!log.text().contains("made again"), "{}", log.text());
    let context = context(&server).await;
    context.delete_stream(STREAMS[0]).await.unwrap();
    context.delete_stream(STREAMS[2]).await.unwrap();
    let get = once(async || backend.store().get("key").await);
    assert_eq!(get.await, None);
    let text = log.text();
    let warnings: Vec<_> = text
        .lines()
        .filter(|it| it.contains("made again"))
        .collect();
    assert_eq!(warnings.len(), 2, "{text}");
    for stream in [STREAMS[0], STREAMS[2]] {
        let named = warnings.iter().filter(|it| it.contains(stream));
        let warning = *named.collect::<Vec<_>>()[0];
        assert!(warning.contains("WARN"), "{warning}");
    }
}

/// The prefix may be one of the tokens that mark the number of a stream.
#[tokio::test]
async fn a_watch_with_any_prefix_outlives_the_stream() {
    for prefix in ["i", "changes"] {
        let server = Server::start().await;
        let builder = server.builder().await.prefix(prefix);
        let store = builder.open().await.unwrap().store();
        let mut changes = store.watch("").await.unwrap();
        let context = context(&server).await;
        context
            .delete_stream(format!("{prefix}-store"))
            .await
            .unwrap();
        store.put("key", "new".into(), None).await.unwrap();
        let change = soon(changes.next()).await.unwrap().unwrap();
        // By itself, the jump of the sequence would count as many changes.
        assert!(matches!(change, Change::Lagged(1)), "{change:?}");
        let change = soon(changes.next()).await.unwrap().unwrap();
        assert!(matches!(change, Change::Put { .. }), "{change:?}");
    }
}

/// Many concurrent calls of several processes create each stream at most once for each process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_streams_are_recreated_once_for_many_callers() {
    const PROCESSES: usize = 3;
    let server = Server::start().await;
    let mut backends = Vec::new();
    for _ in 0..PROCESSES {
        backends.push(server.backend().await);
    }
    let mut requests = {
        let client = server.client().await;
        let requests = client.subscribe("$JS.API.STREAM.CREATE.*").await.unwrap();
        client.flush().await.unwrap();
        requests
    };
    for stream in STREAMS {
        let context = context(&server).await;
        context.delete_stream(stream).await.unwrap();
    }
    let calls = (0..300).map(|number| {
        let backend = backends[number % PROCESSES].clone();
        async move {
            let id = number.to_string();
            match number % 2 {
                0 => backend.store().put(&id, "x".into(), None).await.map(drop),
                _ => {
                    let envelope = Envelope::new("work", id, "x".into());
                    backend.queue().enqueue(envelope).await.map(drop)
                }
            }
        }
    });
    for call in join_all(calls).await {
        call.unwrap();
    }
    let mut made = BTreeMap::<String, usize>::new();
    while let Ok(Some(request)) = timeout(SECOND / 2, requests.next()).await {
        *made.entry(request.subject.to_string()).or_default() += 1;
    }
    assert_eq!(made.len(), STREAMS.len(), "{made:?}");
    for (stream, requests) in made {
        assert!(
            requests <= PROCESSES,
            "{stream} was requested {requests} times"
        );
    }
    for (stream, messages) in [(STREAMS[0], 150), (STREAMS[1], 150)] {
        assert_eq!(server.stream(stream).await.state.messages, messages);
    }
}

/// A watch that is older than the streams sees the changes in the new streams, after a report that changes are missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_the_stream() {
    let server = Server::start().await;
    let (here, there) = (
        server.backend().await.store(),
        server.backend().await.store(),
    );
    for number in 0..100 {
        let key = number.to_string();
        here.put(&key, "old".into(), None).await.unwrap();
    }
    let mut changes = here.watch("").await.unwrap();
    let context = context(&server).await;
    context.delete_stream(STREAMS[0]).await.unwrap();
    there.put("key", "new".into(), None).await.unwrap();
    let change = soon(changes.next()).await.unwrap().unwrap();
    assert!(matches!(change, Change::Lagged(_)), "{change:?}");
    let change = soon(changes.next()).await.unwrap().unwrap();
    assert!(
        matches!(&change, Change::Put { entry, .. } if entry.value == "new"),
        "{change:?}"
    );
    there.delete("key").await.unwrap();
    let change = soon(changes.next()).await.unwrap().unwrap();
    assert!(matches!(change, Change::Deleted { .. }), "{change:?}");
}

/// The numbers of envelopes may start again, and earlier receipts must not match.
#[tokio::test]
async fn a_receipt_from_before_a_loss_settles_nothing() {
    let server = Server::start().await;
    let (here, there) = (
        server.backend().await.queue(),
        server.backend().await.queue(),
    );
    add(&here, "before").await;
    let before = here.take("work", 1, NEVER).await.unwrap().remove(0);
    for stream in &STREAMS[1..] {
        let context = context(&server).await;
        context.delete_stream(stream).await.unwrap();
    }
    add(&there, "after").await;
    let after = soon(there.take("work", 1, NEVER)).await.unwrap().remove(0);
    assert_eq!((&*after.id, after.number), ("after", 1));
    assert!(!here.renew(&before.receipt, SECOND).await.unwrap());
    assert!(!here.settle(&before.receipt, Outcome::Done).await.unwrap());
    let stream = server.stream(STREAMS[1]).await;
    assert_eq!(
        stream.state.messages, 1,
        "the envelope is still in the stream"
    );
    assert!(there.settle(&after.receipt, Outcome::Done).await.unwrap());
}

/// The record of a lost envelope does not apply to a new envelope with the same number.
#[tokio::test]
async fn a_record_from_before_a_loss_does_not_apply() {
    let server = Server::start().await;
    let queue = server.backend().await.queue();
    add(&queue, "before").await;
    let before = queue.take("work", 1, NEVER).await.unwrap().remove(0);
    assert!(queue.settle(&before.receipt, Outcome::Done).await.unwrap());
    let context = context(&server).await;
    context.delete_stream(STREAMS[1]).await.unwrap();
    add(&queue, "after").await;
    let after = soon(queue.take("work", 1, NEVER)).await.unwrap().remove(0);
    assert_eq!((&*after.id, after.number), ("after", 1));
}

/// The acknowledgement was lost with the consumer.
#[tokio::test]
async fn settled_envelopes_are_deleted_without_an_acknowledgement() {
    let server = Server::start().await;
    let builder = server.builder().await.sweep_interval(SECOND / 5);
    let queue = builder.open().await.unwrap().queue();
    add(&queue, "id").await;
    let taken = queue.take("work", 1, NEVER).await.unwrap().remove(0);
    let name = consumer_name(&server).await.unwrap();
    let stream = context(&server).await.get_stream(STREAMS[1]).await.unwrap();
    stream.delete_consumer(&name).await.unwrap();
    add(&queue, "waiting").await;
    assert!(queue.settle(&taken.receipt, Outcome::Done).await.unwrap());
    let messages = async || server.stream(STREAMS[1]).await.state.messages;
    until("the settled envelope is deleted", async || {
        messages().await == 1
    })
    .await;
    let taken = soon(queue.take("work", 1, NEVER)).await.unwrap().remove(0);
    assert_eq!(&*taken.id, "waiting", "the waiting envelope is kept");
}

/// The first version named the records of leases by number only. Records of leases that have ended are deleted.
#[tokio::test]
async fn records_of_the_first_version_are_deleted_after_their_leases() {
    let server = Server::start().await;
    let builder = server.builder().await.sweep_interval(SECOND / 5);
    let _backend = builder.open().await.unwrap();
    let context = context(&server).await;
    for (number, state, milliseconds) in
        [(1, "ended", 0), (2, "leased", 1), (3, "leased", 3_600_000)]
    {
        let record = format!(r#"{{"number":1,"state":"{state}","milliseconds":{milliseconds}}}"#);
        let subject = format!("{}.{number}", STREAMS[2].replace("-leases", ".leases"));
        let stored = context.publish(subject, record.into()).await.unwrap();
        stored.await.unwrap();
    }
    let stream = context.get_stream(STREAMS[2]).await.unwrap();
    let is_there = async |number: u32| {
        let subject = format!("tower-promises.leases.{number}");
        stream
            .get_last_raw_message_by_subject(&subject)
            .await
            .is_ok()
    };
    until("records of ended leases are deleted", async || {
        !is_there(1).await && !is_there(2).await
    })
    .await;
    assert!(is_there(3).await, "the record of an active lease is kept");
}

/// Applies to servers that can start a stream at any sequence: version 2.10 or newer.
#[tokio::test]
async fn revisions_continue_after_a_loss() {
    let server = Server::start().await;
    let store = server.backend().await.store();
    let before = store.put("key", "before".into(), None).await.unwrap();
    let context = context(&server).await;
    context.delete_stream(STREAMS[0]).await.unwrap();
    let after = store.put("key", "after".into(), None).await.unwrap();
    if server.version().await >= (2, 10) {
        assert!(after > before, "{after} {before}");
        let set = store.compare_and_set("key", Some(before), "x".into(), None);
        assert_eq!(set.await.unwrap(), CompareAndSet::Conflict);
    } else {
        assert_eq!(
            after,
            Revision::new(1),
            "revisions start again, as documented"
        );
    }
}

/// Callers get the error at once, and do not delay each other.
#[tokio::test]
async fn a_stream_that_cannot_be_created_is_an_error_at_once() {
    let server = Server::start().await;
    let client = server.client().await;
    // A single server cannot have three replicas.
    let opened = NatsBackend::builder(client).replicas(3).open().await;
    let error = opened.unwrap_err();
    assert!(
        matches!(error, BackendError::Unavailable { .. }),
        "{error:?}"
    );
    let backend = server.backend().await;
    let count = Arc::new(AtomicUsize::new(0));
    // Another stream has the subjects.
    let context = context(&server).await;
    for stream in STREAMS {
        context.delete_stream(stream).await.unwrap();
    }
    let other = jetstream::stream::Config {
        name: "other".into(),
        subjects: vec!["tower-promises.queue.>".into()],
        ..Default::default()
    };
    context.create_stream(other).await.unwrap();
    let calls = (0..20).map(|_| async {
        let error = backend.store().get("key").await.unwrap_err();
        assert!(
            matches!(error, BackendError::Unavailable { .. }),
            "{error:?}"
        );
        count.fetch_add(1, Ordering::Relaxed);
    });
    soon(join_all(calls)).await;
    assert_eq!(count.load(Ordering::Relaxed), 20);
}
