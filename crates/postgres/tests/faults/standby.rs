//! Replicas: a standby that is taken for the primary server, and one that takes its place.

use crate::load::{ENVELOPES, Load, builder};
use futures_util::StreamExt;
use test_support::eventually::{BOUND, eventually, soon, until};
use test_support::postgres::standby::Address;
use test_support::postgres::{SECOND, Server};
use test_support::task::chain;
use tower_promises_backend::{
    BackendError, Bus, BusEvent, Change, CompareAndSet, Enqueued, Envelope, Outcome, Queue, Store,
};
use tower_promises_postgres::PostgresDatabase;

const CONNECTIONS: u32 = 4;

const ADVICE: &str = "the database is read-only: connect to the primary server, not to a replica";

/// A server that acknowledges a commit when a standby has it. Without a standby, it acknowledges none.
async fn primary() -> Server {
    Server::with(&["fsync=off", "synchronous_standby_names=*"]).await
}

fn assert_advises<T>(what: &str, result: Result<T, BackendError>) {
    let error = result.err().unwrap_or_else(|| panic!("{what} succeeds"));
    assert!(chain(&error).contains(ADVICE), "{what}: {}", chain(&error));
}

/// Waits until a call meets a standby. Calls before that meet the end of their connections.
async fn meets_a_standby(store: &impl Store) {
    until("a call meets a standby", async || {
        let put = store.put("key", "y".into(), None).await;
        chain(&put.unwrap_err()).contains("read-only")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused_and_the_error_says_what_to_do() {
    let primary = Server::start().await;
    let standby = primary.standby().await;
    let connect = async || soon(PostgresDatabase::connect(&standby.url())).await;
    // The schema does not exist yet.
    assert_advises("connect", connect().await);
    drop(primary.open(builder()).await);
    primary.is_followed_by(&standby).await;
    assert_advises("connect", connect().await);
    standby.promote().await;
    connect().await.unwrap();
}

/// A name leads to the standby for a while: too early at a failover, or by mistake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_meets_a_standby_says_so_and_goes_on_with_the_primary() {
    let primary = primary().await;
    let standby = primary.standby().await;
    let address = Address::of(&primary).await;
    let database = builder().max_connections(CONNECTIONS);
    let database = database.connect(&address.url()).await.unwrap();
    let (store, bus, queue) = (database.store(), database.bus(), database.queue());
    let revision = store.put("key", "x".into(), None).await.unwrap();
    let envelope = Envelope::new("queue", "id", "x".into());
    queue.enqueue(envelope).await.unwrap();
    let taken = soon(queue.take("queue", 1, SECOND * 3600)).await.unwrap();
    let receipt = &taken[0].receipt;
    let mut listener = bus.listen().await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    primary.is_followed_by(&standby).await;

    address.lead_to(&standby);
    primary.disconnect_all().await;
    meets_a_standby(&store).await;
    let other = Envelope::new("queue", "other", "x".into());
    assert_advises("put", soon(store.put("key", "y".into(), None)).await);
    let set = store.compare_and_set("key", Some(revision), "y".into(), None);
    assert_advises("compare_and_set", soon(set).await);
    assert_advises("delete", soon(store.delete("key")).await);
    assert_advises("enqueue", soon(queue.enqueue(other.clone())).await);
    assert_advises("take", soon(queue.take("queue", 1, SECOND)).await);
    assert_advises("renew", soon(queue.renew(receipt, SECOND)).await);
    let settle = queue.settle(receipt, Outcome::Done);
    assert_advises("settle", soon(settle).await);
    assert_advises("publish", soon(bus.publish("topic", "x".into())).await);
    assert_advises("listen", soon(bus.listen()).await.map(drop));
    assert_advises("watch", soon(store.watch("")).await.map(drop));
    assert_advises("a listener", soon(listener.next()).await.unwrap());
    assert_advises("a watcher", soon(watch.next()).await.unwrap());
    // Reads answer with what the standby has.
    let entry = soon(store.get("key")).await.unwrap().unwrap();
    assert_eq!((entry.revision, &*entry.value), (revision, &b"x"[..]));

    // The connections to the standby are open. A call on each of them fails, and closes it.
    address.lead_to(&primary);
    let mut failures = 0;
    for number in 0..CONNECTIONS * 5 {
        let put = store.put("key", number.to_string().into(), None);
        failures += u32::from(soon(put).await.is_err());
    }
    assert!(failures <= CONNECTIONS, "{failures} calls have failed");
    assert_eq!(
        soon(queue.enqueue(other)).await.unwrap(),
        Enqueued::Added,
        "the calls that were refused had no effect"
    );
    assert!(queue.settle(receipt, Outcome::Done).await.unwrap());
    let mut listener = soon(bus.listen()).await.unwrap();
    soon(bus.publish("topic", "after".into())).await.unwrap();
    let heard = soon(listener.next()).await.unwrap().unwrap();
    assert!(matches!(heard, BusEvent::Message { .. }), "{heard:?}");
}

/// The primary server is lost, and processes meet the standby before it is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_promoted_has_all_that_was_acknowledged() {
    let mut primary = primary().await;
    let standby = primary.standby().await;
    let address = Address::of(&primary).await;
    let database = builder().connect(&address.url()).await.unwrap();
    let (store, bus, queue) = (database.store(), database.bus(), database.queue());
    let revision = store.put("key", "x".into(), None).await.unwrap();
    for id in ["taken", "waiting"] {
        let envelope = Envelope::new("queue", id, "x".into());
        queue.enqueue(envelope).await.unwrap();
    }
    let taken = soon(queue.take("queue", 1, SECOND * 3600)).await.unwrap();
    let mut listener = bus.listen().await.unwrap();
    let mut watch = store.watch("").await.unwrap();

    primary.crash();
    let error = soon(store.put("key", "y".into(), None)).await.unwrap_err();
    assert!(
        matches!(error, BackendError::Unavailable { .. }),
        "{error:?}"
    );
    address.lead_to(&standby);
    meets_a_standby(&store).await;
    // The messages and changes are lost with the primary server.
    soon(listener.next()).await.unwrap().unwrap_err();
    assert!(soon(listener.next()).await.is_none(), "the stream ends");
    soon(watch.next()).await.unwrap().unwrap_err();
    assert!(soon(watch.next()).await.is_none(), "the stream ends");

    standby.promote().await;
    let set = eventually("a write", async || {
        let set = store.compare_and_set("key", Some(revision), "z".into(), None);
        set.await.ok()
    });
    let CompareAndSet::Set(second) = set.await else {
        panic!("the value has its revision");
    };
    assert!(second > revision);
    let mut watch = soon(store.watch("")).await.unwrap();
    let mut listener = soon(bus.listen()).await.unwrap();
    let third = soon(store.put("key", "last".into(), None)).await.unwrap();
    let seen = soon(watch.next()).await.unwrap().unwrap();
    let Change::Put { entry, .. } = seen else {
        panic!("{seen:?}");
    };
    assert_eq!(entry.revision, third);
    soon(bus.publish("topic", "after".into())).await.unwrap();
    let heard = soon(listener.next()).await.unwrap().unwrap();
    assert!(matches!(heard, BusEvent::Message { .. }), "{heard:?}");

    // The lease survives, and so do the envelopes and their ids.
    let again = Envelope::new("queue", "waiting", "x".into());
    let again = soon(queue.enqueue(again)).await.unwrap();
    assert_eq!(again, Enqueued::Duplicate);
    let waiting = soon(queue.take("queue", 9, SECOND * 3600)).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(&*waiting[0].id, "waiting");
    for receipt in [&taken[0].receipt, &waiting[0].receipt] {
        assert!(soon(queue.settle(receipt, Outcome::Done)).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_load_loses_nothing() {
    let mut primary = primary().await;
    let standby = primary.standby().await;
    let address = Address::of(&primary).await;
    let load = Load::start(address.url()).await;
    load.reaches(ENVELOPES / 3).await;
    primary.crash();
    standby.promote().await;
    address.lead_to(&standby);
    load.ends().await;
}

/// A commit that no standby acknowledges is not acknowledged to the caller either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_time_out_while_the_synchronous_standby_is_away() {
    let primary = primary().await;
    let mut standby = primary.standby().await;
    let database = primary.open(builder().timeout(BOUND)).await;
    let (patient, bus) = (database.store(), database.bus());
    let mut listener = bus.listen().await.unwrap();
    let hasty = builder().timeout(SECOND / 2);
    let hasty = eventually("a connection", async || {
        hasty.clone().connect(&primary.url()).await.ok()
    });
    let hasty = hasty.await.store();
    standby.stop();
    let late = eventually("a late write", async || {
        hasty.put("key", "x".into(), None).await.err()
    });
    let late = late.await;
    assert!(matches!(late, BackendError::TimedOut { .. }), "{late:?}");
    assert_eq!(
        soon(patient.get("other")).await.unwrap(),
        None,
        "reads go on"
    );
    // Messages need no standby, although now and then one writes the number of a sequence.
    for _ in 0..100 {
        soon(bus.publish("topic", "x".into())).await.unwrap();
        soon(listener.next()).await.unwrap().unwrap();
    }
    let put = patient.put("key", "y".into(), None);
    let (put, ()) = soon(async { tokio::join!(put, standby.start_again()) }).await;
    put.unwrap();
}
