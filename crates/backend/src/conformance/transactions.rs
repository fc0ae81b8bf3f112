//! The suite for backends that write in a transaction of the application.

use super::{answer, refusal};
use crate::{
    ApplicationConnection, Backend, BackendError, BusEvent, BusStream, Change, CompareAndSet,
    Enqueued, Envelope, JoinedTransaction, Outcome, Revision,
};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

const LEASE: Duration = Duration::from_secs(120);

const TIME_TO_LIVE: Option<Duration> = Some(Duration::from_secs(600));

/// The time without a delivery or a message after which there is none.
const QUIET: Duration = Duration::from_millis(300);

/// The number of concurrent transactions.
const RIVALS: usize = 8;

/// The application in the suite for transactions: it has a connection of its own to the database of the backend.
pub trait Application {
    /// A transaction with its connection.
    type Transaction: Send + 'static;

    /// Begins a transaction on another connection than those of the transactions that have not ended. It must be one
    /// that can write without a conflict, after it has waited for other transactions where that is necessary.
    fn begin(&self) -> impl Future<Output = Self::Transaction>;

    /// Executes a statement for savepoints: `SAVEPOINT`, `ROLLBACK TO SAVEPOINT` or `RELEASE SAVEPOINT`, with a name.
    fn execute(
        &self,
        transaction: &mut Self::Transaction,
        statement: &'static str,
    ) -> impl Future<Output = ()>;

    /// Commits a transaction.
    fn commit(&self, transaction: Self::Transaction) -> impl Future<Output = ()>;

    /// Rolls a transaction back.
    fn rollback(&self, transaction: Self::Transaction) -> impl Future<Output = ()>;
}

/// Checks all guarantees of [`Transactional`](crate::Transactional). Each call of `make` connects to the same backend.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn transactions(make: impl AsyncFn() -> Backend, application: impl Application) {
    transactions_commit(&make, &application).await;
    transactions_roll_back(&make, &application).await;
    transactions_have_savepoints(&make, &application).await;
    transactions_withstand_failures(&make, &application).await;
    transactions_refuse(&make).await;
    transactions_race(&make, &application).await;
}

/// Checks that nothing is visible before the commit, and everything after it.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn transactions_commit(make: impl AsyncFn() -> Backend, application: &impl Application) {
    let (here, there) = (make().await, make().await);
    let name = fresh("commit");
    let mut watch = answer("watch", there.store().watch(&name)).await;
    let mut listener = answer("listen", there.bus().listen()).await;

    let mut transaction = application.begin().await;
    let revision = write_in(&here, &mut transaction, &name).await;
    let mut joined = join(&here, &mut transaction).await;
    let found = answer("get", joined.get(&name)).await;
    assert_eq!(
        found.map(|entry| entry.revision),
        Some(revision),
        "a transaction sees what it has written"
    );
    answer("finish", joined.finish()).await;
    for backend in [&here, &there] {
        is_absent(backend, &name, "before the commit").await;
    }
    let change = timeout(QUIET, watch.next()).await;
    assert!(change.is_err(), "{change:?} was seen before the commit");
    let heard = hear(&mut listener, &name, QUIET).await;
    assert!(heard.is_none(), "a message was heard before the commit");

    application.commit(transaction).await;
    is_present(&there, &name).await;
    let entry = answer("get", here.store().get(&name)).await;
    let entry = entry.expect("a value is there after the commit");
    assert_eq!(
        entry.revision, revision,
        "the revision that was returned is that of the value"
    );
    let change = timeout(super::PATIENCE, watch.next()).await;
    let Ok(Some(Ok(Change::Put { key, entry: put }))) = change else {
        panic!("a watcher sees the value after the commit, not {change:?}");
    };
    assert_eq!((&*key, put), (&*name, entry.clone()));
    let heard = hear(&mut listener, &name, super::PATIENCE).await;
    assert!(heard.is_some(), "a message is heard after the commit");

    // Other connections change the value further, and the transaction after that.
    let set = there
        .store()
        .compare_and_set(&name, Some(revision), "there".into(), TIME_TO_LIVE);
    let CompareAndSet::Set(second) = answer("set", set).await else {
        panic!("the revision of a transaction can be replaced");
    };
    let mut transaction = application.begin().await;
    let mut joined = join(&here, &mut transaction).await;
    let stale = joined.compare_and_set(&name, Some(revision), "stale".into(), TIME_TO_LIVE);
    assert_eq!(answer("set", stale).await, CompareAndSet::Conflict);
    let set = joined.compare_and_set(&name, Some(second), "last".into(), TIME_TO_LIVE);
    let CompareAndSet::Set(third) = answer("set", set).await else {
        panic!("the present revision can be replaced");
    };
    answer("finish", joined.finish()).await;
    application.commit(transaction).await;
    assert!(revision < second && second < third, "revisions increase");
    let found = answer("get", there.store().get(&name)).await;
    assert_eq!(found.map(|entry| entry.value), Some("last".into()));
}

/// Checks that nothing remains of a transaction that was rolled back.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn transactions_roll_back(
    make: impl AsyncFn() -> Backend,
    application: &impl Application,
) {
    let (here, there) = (make().await, make().await);
    let name = fresh("rollback");
    let mut listener = answer("listen", there.bus().listen()).await;
    let mut transaction = application.begin().await;
    write_in(&here, &mut transaction, &name).await;
    application.rollback(transaction).await;
    for backend in [&here, &there] {
        is_absent(backend, &name, "after a rollback").await;
    }
    let heard = hear(&mut listener, &name, QUIET).await;
    assert!(heard.is_none(), "a message was heard after a rollback");

    // The names are as unused as before.
    let mut transaction = application.begin().await;
    write_in(&there, &mut transaction, &name).await;
    application.commit(transaction).await;
    is_present(&here, &name).await;
}

/// Checks that a savepoint of the application undoes what was written after it, and nothing else.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn transactions_have_savepoints(
    make: impl AsyncFn() -> Backend,
    application: &impl Application,
) {
    let (here, there) = (make().await, make().await);
    let [before, undone, kept] = ["before", "undone", "kept"].map(fresh);
    let mut transaction = application.begin().await;
    write_in(&here, &mut transaction, &before).await;
    application
        .execute(&mut transaction, "SAVEPOINT conformance_1")
        .await;
    write_in(&here, &mut transaction, &undone).await;
    application
        .execute(&mut transaction, "ROLLBACK TO SAVEPOINT conformance_1")
        .await;
    application
        .execute(&mut transaction, "SAVEPOINT conformance_2")
        .await;
    write_in(&here, &mut transaction, &kept).await;
    application
        .execute(&mut transaction, "RELEASE SAVEPOINT conformance_2")
        .await;
    application.commit(transaction).await;
    is_present(&there, &before).await;
    is_present(&there, &kept).await;
    is_absent(&there, &undone, "after a rollback to a savepoint").await;
}

/// Checks that calls which fail or are dropped leave the transaction as it was.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn transactions_withstand_failures(
    make: impl AsyncFn() -> Backend,
    application: &impl Application,
) {
    let (here, there) = (make().await, make().await);
    let [before, dropped, after] = ["before", "dropped", "after"].map(fresh);
    let mut transaction = application.begin().await;
    write_in(&here, &mut transaction, &before).await;

    let mut joined = join(&here, &mut transaction).await;
    write(&mut *joined, &dropped).await;
    drop(joined);
    // Dropped at any point of a call, and of joining.
    for polls in 0..20 {
        let connection = ApplicationConnection::new(&mut transaction);
        let mut writing = Box::pin(async {
            let mut joined = answer("join", here.join(connection)).await;
            write(&mut *joined, &dropped).await;
            std::future::pending::<()>().await;
        });
        for _ in 0..polls {
            assert!((&mut writing).now_or_never().is_none());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut joined = join(&here, &mut transaction).await;
    let too_large = vec![0; here.queue().capabilities().max_payload_bytes + 1];
    let too_large = joined.enqueue(Envelope::new(&*dropped, "id", too_large.into()));
    let error = refusal("a payload beyond the limit", too_large).await;
    assert!(matches!(error, BackendError::TooLarge { .. }), "{error:?}");
    drop(joined);
    let mut joined = join(&here, &mut transaction).await;
    let error = refusal("an invalid name", joined.publish("", Bytes::new())).await;
    assert!(
        matches!(error, BackendError::InvalidName { .. }),
        "{error:?}"
    );
    drop(joined);

    write_in(&here, &mut transaction, &after).await;
    let mut joined = join(&here, &mut transaction).await;
    let again = joined.enqueue(Envelope::new(&*before, "id", "again".into()));
    assert_eq!(answer("enqueue", again).await, Enqueued::Duplicate);
    answer("finish", joined.finish()).await;
    application.commit(transaction).await;
    is_present(&there, &before).await;
    is_present(&there, &after).await;
    is_absent(&there, &dropped, "after it was dropped").await;
}

/// Checks that a connection of another type is refused.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn transactions_refuse(make: impl AsyncFn() -> Backend) {
    let backend = make().await;
    let mut other = String::from("not a connection");
    let joined = backend.join(ApplicationConnection::new(&mut other));
    let error = refusal(
        "a connection of another type",
        joined.map(|it| it.map(drop)),
    )
    .await;
    assert!(matches!(error, BackendError::Refused { .. }), "{error:?}");
    assert!(
        error.to_string().contains("String"),
        "the error names the type: {error}"
    );
}

/// Checks that one of several transactions sets an absent value, and that the others have no effect.
///
/// # Panics
///
/// Panics if a guarantee is violated.
pub async fn transactions_race(make: impl AsyncFn() -> Backend, application: &impl Application) {
    let name = fresh("race");
    let mut backends = Vec::new();
    for _ in 0..RIVALS {
        backends.push(make().await);
    }
    let rivals = backends.iter().map(|backend| {
        let name = &name;
        async move {
            let mut transaction = application.begin().await;
            let set = async {
                let mut joined = join(backend, &mut transaction).await;
                let set = joined
                    .compare_and_set(name, None, "x".into(), TIME_TO_LIVE)
                    .await;
                if let Ok(CompareAndSet::Set(_)) = set {
                    answer("finish", joined.finish()).await;
                }
                set
            };
            match set.await {
                Ok(CompareAndSet::Set(_)) => {
                    application.commit(transaction).await;
                    true
                }
                Ok(CompareAndSet::Conflict) | Err(BackendError::Conflict { .. }) => {
                    application.rollback(transaction).await;
                    false
                }
                Err(error) => panic!("a transaction sets or conflicts: {error:?}"),
            }
        }
    });
    let set = join_all(rivals).await;
    let winners = set.iter().filter(|has_set| **has_set).count();
    assert_eq!(winners, 1, "exactly one transaction sets an absent value");
}

async fn join<'c, T: Send + 'static>(
    backend: &'c Backend,
    transaction: &'c mut T,
) -> Box<dyn JoinedTransaction + 'c> {
    let connection = ApplicationConnection::new(transaction);
    answer("join", backend.join(connection)).await
}

/// Writes a value, an envelope and a message of this name. Returns the revision of the value.
async fn write_in<T: Send + 'static>(
    backend: &Backend,
    transaction: &mut T,
    name: &str,
) -> Revision {
    let mut joined = join(backend, transaction).await;
    let revision = write(&mut *joined, name).await;
    answer("finish", joined.finish()).await;
    revision
}

async fn write(joined: &mut (dyn JoinedTransaction + '_), name: &str) -> Revision {
    let set = joined.compare_and_set(name, None, "value".into(), TIME_TO_LIVE);
    let CompareAndSet::Set(revision) = answer("set", set).await else {
        panic!("`{name}` is an absent key");
    };
    let added = joined.enqueue(Envelope::new(name, "id", "payload".into()));
    let added = answer("enqueue", added).await;
    assert_eq!(added, Enqueued::Added, "`{name}` is a new queue");
    answer("publish", joined.publish(name, "message".into())).await;
    revision
}

/// Checks that neither the value nor the envelope of this name is there.
async fn is_absent(backend: &Backend, name: &str, when: &str) {
    let found = answer("get", backend.store().get(name)).await;
    assert!(found.is_none(), "a value was read {when}");
    let listed = answer("list", backend.store().list(name, None, 10)).await;
    assert!(listed.entries.is_empty(), "a value was listed {when}");
    let taken = timeout(QUIET, backend.queue().take(name, 1, LEASE)).await;
    assert!(taken.is_err(), "{taken:?} was taken {when}");
}

/// Checks that the value and the envelope of this name are there. Ends the envelope.
async fn is_present(backend: &Backend, name: &str) {
    let found = answer("get", backend.store().get(name)).await;
    assert!(found.is_some(), "a value is read after the commit");
    let taken = answer("take", backend.queue().take(name, 2, LEASE)).await;
    let [taken] = &*taken else {
        panic!("an envelope is taken once, not {taken:?}");
    };
    assert_eq!((&*taken.id, &taken.payload[..]), ("id", &b"payload"[..]));
    let settled = backend.queue().settle(&taken.receipt, Outcome::Done);
    assert!(answer("settle", settled).await, "the lease is active");
}

/// Waits for a message on a topic.
async fn hear(listener: &mut BusStream, name: &str, patience: Duration) -> Option<()> {
    let heard = async {
        loop {
            match listener.next().await {
                Some(Ok(BusEvent::Message { topic, .. })) if *topic == *name => return,
                Some(Ok(_)) => {}
                other => panic!("the bus ended: {other:?}"),
            }
        }
    };
    timeout(patience, heard).await.ok()
}

/// Returns an unused name.
fn fresh(what: &str) -> String {
    let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("conformance/transactions/{what}/{}", time.as_nanos())
}
