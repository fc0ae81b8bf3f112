//! The NATS adapters pass the conformance suites on a real server, and continue after a restart of the server.

use futures_util::StreamExt;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use test_support::nats::{SECOND, Server, hear, soon, until};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tower_promises_backend::{
    BackendError, Bus, BusEvent, CompareAndSet, Delivery, Enqueued, Envelope, Outcome, Queue,
    Store, WorkOptions, conformance,
};
use tower_promises_nats::async_nats::jetstream;
use tower_promises_nats::{NatsBackend, NatsQueue};
use tower_promises_signals::Signals;

#[tokio::test]
async fn the_store_conforms_on_one_connection() {
    let server = Server::start().await;
    let store = server.backend().await.store();
    conformance::store(async || store.clone()).await;
    conformance::journal(async || store.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_store_conforms_on_a_connection_for_each_caller() {
    let server = Server::start().await;
    conformance::store(async || server.backend().await.store()).await;
    conformance::journal(async || server.backend().await.store()).await;
}

#[tokio::test]
async fn the_bus_conforms_on_one_connection() {
    let server = Server::start().await;
    let bus = server.backend().await.bus();
    conformance::bus(async || bus.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bus_conforms_on_a_connection_for_each_caller() {
    let server = Server::start().await;
    conformance::bus(async || server.backend().await.bus()).await;
}

#[tokio::test]
async fn the_queue_conforms_on_one_connection() {
    let server = Server::start().await;
    let queue = server.backend().await.queue();
    conformance::queue(async || queue.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_queue_conforms_on_a_connection_for_each_caller() {
    let server = Server::start().await;
    conformance::queue(async || server.backend().await.queue()).await;
}

/// An expired value is absent, even if the server accepts no message that would sample its clock.
#[tokio::test]
async fn an_expired_value_is_absent_when_the_server_is_full() {
    let server = Server::start().await;
    let store = server.backend().await.store();
    let time = Some(SECOND / 10);
    store.put("over", "x".into(), time).await.unwrap();
    let leases = "tower-promises-leases";
    let context = jetstream::new(server.client().await);
    let mut config = server.stream(leases).await.config;
    config.sealed = true;
    context.update_stream(config).await.unwrap();
    // Waits until the newest sample of the server's clock is outdated.
    sleep(SECOND * 3 / 2).await;
    for _ in 0..3 {
        assert_eq!(store.get("over").await.unwrap(), None);
    }
}

/// Many reads of expired values share one request for the server's time.
#[tokio::test]
async fn reads_of_expired_values_do_not_stampede() {
    const READS: usize = 500;
    let server = Server::start().await;
    let store = server.backend().await.store();
    let client = server.client().await;
    let mut asked = client
        .subscribe("tower-promises.leases.clock")
        .await
        .unwrap();
    client.flush().await.unwrap();
    for key in 0..READS {
        let time = Some(SECOND / 10);
        store.put(&key.to_string(), "x".into(), time).await.unwrap();
    }
    sleep(SECOND * 3 / 2).await;
    let keys: Vec<_> = (0..READS).map(|key| key.to_string()).collect();
    for found in join_all(keys.iter().map(|key| store.get(key))).await {
        assert_eq!(found.unwrap(), None);
    }
    client.flush().await.unwrap();
    let mut count = 0;
    while timeout(SECOND / 2, asked.next()).await.is_ok() {
        count += 1;
    }
    // One request for each second that the reads take.
    assert!((1..READS / 10).contains(&count), "{count}");
}

/// The effects of acknowledged calls survive a crash of the server, and the same adapters continue to work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_server_loses_nothing() {
    let mut server = Server::start().await;
    let backend = server.builder().await.pull_expiry(SECOND).open().await;
    let backend = backend.unwrap();
    let (store, bus, queue) = (backend.store(), backend.bus(), backend.queue());
    let first = store.put("kept", "1".into(), None).await.unwrap();
    let deleted = store.put("deleted", "2".into(), None).await.unwrap();
    assert!(store.delete("deleted").await.unwrap());
    for id in ["leased", "waiting", "queued"] {
        enqueue(&queue, id).await;
    }
    let taken = queue.take("work", 2, SECOND * 60).await.unwrap();
    let [leased, waiting] = &taken[..] else {
        panic!("two of three are taken, not {taken:?}");
    };
    let retry = Outcome::Retry { after: SECOND * 2 };
    assert!(queue.settle(&waiting.receipt, retry).await.unwrap());
    let settled = Instant::now();
    let mut listener = bus.listen().await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    let worker = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take("other", 1, SECOND).await }
    });

    server.kill();
    let lost = hear(&mut listener).await.unwrap_err();
    assert!(matches!(lost, BackendError::Unavailable { .. }), "{lost:?}");
    assert!(
        soon(listener.next()).await.is_none(),
        "the stream ends after the error"
    );
    assert!(soon(watch.next()).await.unwrap().is_err());
    assert!(
        soon(watch.next()).await.is_none(),
        "the stream ends after the error"
    );
    server.start_again().await;

    until("the client is connected", async || {
        store.get("kept").await.is_ok()
    })
    .await;
    let entry = store.get("kept").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision), (&b"1"[..], first));
    let set = store.compare_and_set("kept", Some(first), "3".into(), None);
    let CompareAndSet::Set(second) = set.await.unwrap() else {
        panic!("the revision has not changed");
    };
    assert!(second > deleted, "the deletion has a revision, too");

    let again = Envelope::new("work", "leased", "x".into());
    assert_eq!(queue.enqueue(again).await.unwrap(), Enqueued::Duplicate);
    let renewed = queue.renew(&leased.receipt, SECOND * 60).await;
    assert!(renewed.unwrap(), "a lease survives a crash");
    let mut ids = Vec::new();
    for number in [1, 2] {
        let taken = soon(queue.take("work", 1, SECOND * 60)).await.unwrap();
        assert_eq!(taken[0].number, number);
        assert!(
            queue
                .settle(&taken[0].receipt, Outcome::Done)
                .await
                .unwrap()
        );
        ids.push(taken[0].id.to_string());
    }
    assert_eq!(ids, ["queued", "waiting"]);
    assert!(settled.elapsed() >= SECOND * 2, "a delay is not cut short");
    assert!(queue.settle(&leased.receipt, Outcome::Done).await.unwrap());

    // The waiting call still waits or has returned an error.
    queue
        .enqueue(Envelope::new("other", "id", "x".into()))
        .await
        .unwrap();
    let taken = match soon(worker).await.unwrap() {
        Ok(taken) => taken,
        Err(_) => soon(queue.take("other", 1, SECOND)).await.unwrap(),
    };
    assert_eq!(&*taken[0].id, "id");

    let mut listener = bus.listen().await.unwrap();
    bus.publish("topic", "after".into()).await.unwrap();
    let heard = BusEvent::Message {
        topic: "topic".into(),
        payload: "after".into(),
    };
    assert_eq!(hear(&mut listener).await.unwrap(), heard);
}

/// A worker continues by itself after restarts of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_survives_restarts() {
    const ENVELOPES: usize = 60;
    let mut server = Server::start().await;
    let builder = server.builder().await.pull_expiry(SECOND / 2);
    // A killed server may have recorded an acknowledgement and still have the message, which the sweep deletes.
    let builder = builder.timeout(SECOND * 5).sweep_interval(SECOND * 5);
    let queue = builder.open().await.unwrap().queue();
    let (sender, mut handled) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(delivery.id.to_string());
            Outcome::Done
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = tokio::spawn({
        let queue = queue.clone();
        let options = WorkOptions::new("work").lease(SECOND * 3);
        let stopped = async move { drop(stopped.await) };
        async move {
            queue
                .work(options, Arc::new(handler), Box::pin(stopped))
                .await
        }
    });
    let mut missing = BTreeSet::new();
    for number in 0..ENVELOPES {
        if number % 20 == 10 {
            server.kill();
            server.start_again().await;
        }
        let id = number.to_string();
        let envelope = Envelope::new("work", &*id, "x".into());
        // Enqueueing the same envelope again is always safe.
        until("the envelope is enqueued", async || {
            queue.enqueue(envelope.clone()).await.is_ok()
        })
        .await;
        missing.insert(id);
    }
    while !missing.is_empty() {
        missing.remove(&soon(handled.recv()).await.unwrap());
    }
    // Envelopes that were settled while the server was away may be delivered again, so the worker runs until all are
    // deleted.
    let messages = async || server.stream("tower-promises-queue").await.state.messages;
    until("settled envelopes are deleted", async || {
        messages().await == 0
    })
    .await;
    drop(stop);
    soon(worker).await.unwrap().unwrap();
}

#[tokio::test]
async fn calls_while_the_server_is_away_end_in_time() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let mut server = Server::start().await;
    let backend = server.builder().await.timeout(TIMEOUT).open().await;
    let backend = backend.unwrap();
    let (store, bus, queue) = (backend.store(), backend.bus(), backend.queue());
    enqueue(&queue, "id").await;
    let taken = queue.take("work", 1, SECOND * 60).await.unwrap().remove(0);
    server.kill();

    let second = Envelope::new("work", "2", "x".into());
    let errors = [
        soon(store.get("key")).await.unwrap_err(),
        soon(store.put("key", "x".into(), None)).await.unwrap_err(),
        soon(store.delete("key")).await.unwrap_err(),
        soon(store.watch("")).await.err().unwrap(),
        soon(bus.publish("topic", "x".into())).await.unwrap_err(),
        soon(bus.listen()).await.err().unwrap(),
        soon(queue.enqueue(second)).await.unwrap_err(),
        soon(queue.renew(&taken.receipt, SECOND)).await.unwrap_err(),
        soon(queue.settle(&taken.receipt, Outcome::Done))
            .await
            .unwrap_err(),
        soon(queue.take("work", 1, SECOND)).await.unwrap_err(),
        soon(queue.take("new", 1, SECOND)).await.unwrap_err(),
    ];
    for error in errors {
        let is_clear = matches!(
            error,
            BackendError::TimedOut { .. } | BackendError::Unavailable { .. }
        );
        assert!(is_clear, "{error:?}");
    }
}

/// To the consumer, the acknowledgement of a worker whose lease has ended looks like that of the next worker.
#[tokio::test]
async fn a_late_worker_settles_nothing() {
    let server = Server::start().await;
    let (here, there) = (
        server.backend().await.queue(),
        server.backend().await.queue(),
    );
    enqueue(&here, "id").await;
    let first = here.take("work", 1, SECOND).await.unwrap().remove(0);
    let second = soon(there.take("work", 1, SECOND * 60))
        .await
        .unwrap()
        .remove(0);
    assert!(!here.settle(&first.receipt, Outcome::Done).await.unwrap());
    let stream = server.stream("tower-promises-queue").await;
    assert_eq!(
        stream.state.messages, 1,
        "the envelope is still in the stream"
    );
    assert!(there.settle(&second.receipt, Outcome::Done).await.unwrap());
}

#[tokio::test]
async fn expired_entries_are_deleted_from_the_server() {
    let server = Server::start().await;
    let builder = server.builder().await.sweep_interval(SECOND / 5);
    let backend = builder.open().await.unwrap();
    let (store, queue) = (backend.store(), backend.queue());
    store.put("kept", "x".into(), None).await.unwrap();
    store
        .put("long", "x".into(), Some(SECOND * 600))
        .await
        .unwrap();
    for number in 0..20 {
        let key = number.to_string();
        store.put(&key, "x".into(), Some(SECOND / 5)).await.unwrap();
        store
            .put(&format!("deleted {key}"), "x".into(), None)
            .await
            .unwrap();
        assert!(store.delete(&format!("deleted {key}")).await.unwrap());
        enqueue(&queue, &key).await;
    }
    for _ in 0..19 {
        let taken = queue.take("work", 1, SECOND * 60).await.unwrap().remove(0);
        assert!(queue.settle(&taken.receipt, Outcome::Done).await.unwrap());
    }
    let last = queue.take("work", 1, SECOND * 60).await.unwrap().remove(0);
    let messages = async |name: &str| server.stream(name).await.state.messages;
    until("values are swept", async || {
        messages("tower-promises-store").await == 2
    })
    .await;
    // The records of the leased envelope, of the sweep and of the clock.
    until("records are swept", async || {
        messages("tower-promises-leases").await == 3
    })
    .await;
    for key in ["kept", "long"] {
        assert!(store.get(key).await.unwrap().is_some());
    }
    let revision = store.put("kept", "y".into(), None).await.unwrap();
    let set = store.compare_and_set("deleted 1", None, "y".into(), None);
    assert_ne!(set.await.unwrap(), CompareAndSet::Conflict);
    let entry = store.get("deleted 1").await.unwrap().unwrap();
    assert!(entry.revision > revision, "revisions still rise");
    assert!(queue.settle(&last.receipt, Outcome::Done).await.unwrap());
}

/// For example a counter, a lease or the record of a task.
#[tokio::test]
async fn a_value_that_was_just_read_is_replaced_in_one_round_trip() {
    let server = Server::start().await;
    let (client, other) = (server.client().await, server.backend().await.store());
    let statistics = client.statistics();
    let store = NatsBackend::open(client).await.unwrap().store();
    let sent = || statistics.out_messages.load(Ordering::Relaxed);
    let set = async |key: &str, expected, time_to_live| {
        let before = sent();
        let set = store.compare_and_set(key, expected, "x".into(), time_to_live);
        (set.await.unwrap(), sent() - before)
    };
    for time_to_live in [None, Some(SECOND * 60)] {
        let key = format!("{time_to_live:?}");
        let (absent, messages) = set(&key, None, time_to_live).await;
        assert_ne!(absent, CompareAndSet::Conflict);
        assert_eq!(messages, 1);
        for _ in 0..3 {
            let before = sent();
            let read = store.get(&key).await.unwrap().unwrap().revision;
            assert_eq!(sent() - before, 1);
            let (replaced, messages) = set(&key, Some(read), time_to_live).await;
            assert_ne!(replaced, CompareAndSet::Conflict);
            assert_eq!(messages, 1);
            let (late, _) = set(&key, Some(read), time_to_live).await;
            assert_eq!(late, CompareAndSet::Conflict);
        }
        // A change by another client in between still causes a conflict.
        let read = store.get(&key).await.unwrap().unwrap().revision;
        assert!(other.delete(&key).await.unwrap());
        let (late, _) = set(&key, Some(read), time_to_live).await;
        assert_eq!(late, CompareAndSet::Conflict);
    }
}

#[tokio::test]
async fn prefixes_separate_backends() {
    let server = Server::start().await;
    let open = async |prefix: &str| server.builder().await.prefix(prefix).open().await;
    let (one, two) = (open("one").await.unwrap(), open("two").await.unwrap());
    one.store().put("key", "x".into(), None).await.unwrap();
    assert_eq!(two.store().get("key").await.unwrap(), None);
    enqueue(&one.queue(), "id").await;
    enqueue(&two.queue(), "id").await;
    for prefix in ["", "a.b", "a*", "ä", &"x".repeat(101)] {
        let error = open(prefix).await.unwrap_err();
        assert!(
            matches!(error, BackendError::InvalidName { .. }),
            "{error:?}"
        );
    }
}

/// A full store or queue keeps its entries, which can still be replaced.
#[tokio::test]
async fn a_full_backend_refuses_new_entries() {
    const ROOM: usize = 20;
    let server = Server::start().await;
    let builder = server.builder().await;
    let builder = builder.max_values(ROOM).max_envelopes(ROOM);
    let backend = builder.open().await.unwrap();
    let (store, queue) = (backend.store(), backend.queue());
    let ids: Vec<_> = (0..ROOM).map(|number| number.to_string()).collect();
    for id in &ids {
        let size = 1 << (id.len() * 4);
        store.put(id, vec![0; size].into(), None).await.unwrap();
        enqueue(&queue, id).await;
    }
    for size in [0, 1, 1024] {
        let stored = store.put("more", vec![0; size].into(), None).await;
        assert!(matches!(stored, Err(BackendError::Full)), "{stored:?}");
        let envelope = Envelope::new("work", "more", vec![0; size].into());
        let queued = queue.enqueue(envelope).await;
        assert!(matches!(queued, Err(BackendError::Full)), "{queued:?}");
    }
    let again = Envelope::new("work", &*ids[0], "x".into());
    assert_eq!(queue.enqueue(again).await.unwrap(), Enqueued::Duplicate);
    for id in &ids {
        assert!(store.get(id).await.unwrap().is_some(), "{id} is kept");
        let revision = store.put(id, "replaced".into(), None).await.unwrap();
        let set = store.compare_and_set(id, Some(revision), "again".into(), None);
        assert_ne!(set.await.unwrap(), CompareAndSet::Conflict);
        assert!(store.delete(id).await.unwrap());

        let taken = queue.take("work", 1, SECOND * 60).await.unwrap().remove(0);
        assert_eq!(*taken.id, **id, "{id} is kept");
        assert!(queue.settle(&taken.receipt, Outcome::Done).await.unwrap());
    }
    until("the queue has room", async || {
        let envelope = Envelope::new("work", "later", "x".into());
        queue.enqueue(envelope).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn sizes_are_limited() {
    let server = Server::start().await;
    let builder = server
        .builder()
        .await
        .max_value_bytes(3)
        .max_message_bytes(3);
    let backend = builder.max_envelope_bytes(usize::MAX).open().await.unwrap();
    let errors = [
        backend
            .store()
            .put("key", "abcd".into(), None)
            .await
            .unwrap_err(),
        backend
            .bus()
            .publish("topic", "abcd".into())
            .await
            .unwrap_err(),
    ];
    for error in errors {
        let is_too_large = matches!(
            error,
            BackendError::TooLarge {
                size: 4,
                limit: 3,
                ..
            }
        );
        assert!(is_too_large, "{error:?}");
    }
    // The server has a limit, too. A payload that fits also fits with the longest names.
    let queue = backend.queue();
    let limit = queue.capabilities().max_payload_bytes;
    assert!(limit < 1024 * 1024, "{limit}");
    let name = "x".repeat(1024);
    let envelope = Envelope::new(&*name, &*name, vec![0; limit].into()).delay(SECOND / 10);
    assert_eq!(queue.enqueue(envelope).await.unwrap(), Enqueued::Added);
    let taken = queue.take(&name, 1, SECOND).await.unwrap().remove(0);
    assert_eq!(taken.payload.len(), limit);
}

#[tokio::test]
async fn signals_cross_connections() {
    let server = Server::start().await;
    let here = Signals::new(server.backend().await.backend());
    let there = Signals::new(
        NatsBackend::open(server.client().await)
            .await
            .unwrap()
            .backend(),
    );
    here.listen().await.unwrap();
    there.listen().await.unwrap();
    let waiting = there.wait::<String>("name");
    here.send("name", "hello").await.unwrap();
    assert_eq!(soon(waiting).await.unwrap(), "hello");
    here.latch("later", "latched", SECOND * 600).await.unwrap();
    assert_eq!(
        soon(there.wait::<String>("later")).await.unwrap(),
        "latched"
    );
}

async fn enqueue(queue: &NatsQueue, id: &str) {
    let envelope = Envelope::new("work", id, "x".into());
    assert_eq!(queue.enqueue(envelope).await.unwrap(), Enqueued::Added);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_operation_survives_the_loss_of_its_process() {
    let server = Server::start().await;
    let (one, other) = (server.backend().await, server.backend().await);
    test_support::durable::survives_the_loss_of_its_process(one.backend(), other.backend()).await;
}
