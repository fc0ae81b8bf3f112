//! Adapters for many machines that share a NATS server or cluster with JetStream.
//!
//! ```no_run
//! use tower_promises_nats::{NatsBackend, async_nats};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // On each machine:
//! let client = async_nats::connect("nats.internal:4222").await?;
//! let backend = NatsBackend::open(client).await?.backend();
//! backend.store().put("greeting", "hello".into(), None).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When to use it
//!
//! For a service that runs on more than one machine. A call takes one or two round trips to the server, which is a
//! fraction of a millisecond in a local network. Messages and changes reach the other machines at once. For the
//! processes of one machine, `tower-promises-sqlite` needs no server. For one process, the
//! [`memory`](tower_promises_backend::memory) adapters are faster.
//!
//! # Requirements
//!
//! 1. A server of version 2.9 or later, with JetStream (`nats-server -js -sd directory`). The adapters are tested with
//!    2.9.10 and 2.15.1.
//! 2. A client of [`async_nats`] that the application creates. The application chooses the addresses, credentials, TLS
//!    and the features of that crate. The option `no_echo` does not work, nor does an inbox prefix to which the user
//!    may not publish.
//! 3. A tokio runtime with time and I/O enabled. A task in the runtime of the first listener or watcher reads new
//!    messages and changes. When that runtime ends, the streams of all listeners and watchers end.
//!
//! # Clocks
//!
//! Times to live, leases and delays start at a timestamp of the server and end by the clock of the server. A process
//! reads that clock when it opens the backend, each minute, and after each new connection. It also does so before it
//! treats something as expired, if the last reading is older than a second. Between two readings the monotonic clock of
//! the process counts. So the clocks of the machines need not agree with the clock of the server, and may be set. If
//! the clock of the server is set, processes that have the backend open detect that and adjust. A process that opens
//! the backend afterwards cannot: after a step forward, anything that started before the step expires that much too
//! early; after a step back, that much too late, until it is renewed. The clocks of the servers of a cluster should
//! agree within a second.
//!
//! # Streams
//!
//! With the default [prefix](NatsBuilder::prefix) there are three streams. `tower-promises-store` has a message for
//! each key. `tower-promises-queue` has a message for each envelope, and a durable consumer for each queue.
//! `tower-promises-leases` has a record for each envelope that was taken. The subjects start with `tower-promises.` and
//! contain keys, topics, queues and ids in base64url. Watchers and listeners use plain subscriptions: to the changes
//! that the server republishes, and to the bus. The streams belong to this crate alone. The tools of NATS may inspect
//! them and change their limits, but not their messages.
//!
//! A missing stream is created again: the call that detects it creates all missing streams, once for all concurrent
//! calls, and is then repeated. A worker whose consumer is gone, because it was deleted, has expired, or was lost with
//! its server, detects that within three seconds and creates the consumer again. The contents of a lost stream are
//! lost: values are absent, and older receipts and revisions match nothing. A watch reports missing changes and
//! continues. Streams are created with the settings of the process that creates them. Servers before 2.10 count the
//! revisions of a new stream from 1, so with such a server an older revision may match a later value. The log has a
//! warning with the name of each stream that is created again. Stop all processes before you restore a stream from a
//! backup, because a running process creates an empty stream in its place.
//!
//! # Durability
//!
//! | | values, envelopes | messages and changes |
//! |---|---|---|
//! | a restart or crash of a process | all | messages and changes that the process had not received are lost |
//! | a restart, a crash or `kill -9` of the server | all that were acknowledged, and the ids of envelopes that have not ended | listeners and watchers get an error and listen again |
//! | a crash of the server's machine, loss of power | all except the last `sync_interval` of the server, by default two minutes; with [replicas](NatsBuilder::replicas) all | the same |
//! | the loss of a server's disk, or of its memory with [in-memory](NatsBuilder::in_memory) streams | none; with replicas all | the same |
//!
//! The client reconnects by itself. Meanwhile calls wait, and fail with [`TimedOut`](BackendError::TimedOut) after the
//! [timeout](NatsBuilder::timeout). Their effects may still happen once the connection is back. Workers continue.
//!
//! In a cluster the leader of a stream answers all calls. A leader that has just been cut off from the cluster may not
//! know it yet, so a [`get`](tower_promises_backend::Store::get) may return an outdated value for a moment. A majority
//! decides changes, so a change is never lost or decided twice.
//!
//! # Limits
//!
//! [`NatsBuilder`] sets the maximum sizes, the buffers for listeners that fall behind, and the maximum numbers of
//! envelopes and [values](NatsBuilder::max_values). Do not limit the bytes of the streams: servers of version 2.9 then
//! delete acknowledged messages. The bytes of the account can be limited. A [sweep](NatsBuilder::sweep_interval) of one
//! process at a time deletes expired messages. Every process that watches receives the changes of all keys. The bus
//! delivers at most once: messages in flight are lost with a connection, and when the client's own buffer of 65536
//! messages overflows because the runtime is blocked.
//!
//! # Cancel safety
//!
//! Every future may be dropped. The server processes the requests that were sent before. An envelope that was being
//! taken is returned at once. If the server cannot be reached, the envelope is delivered again when its lease ends. In
//! both cases other envelopes of its queue may be taken before it.
//!
//! # Panics
//!
//! Panics only outside of a tokio runtime with time enabled.
//!
//! # Security
//!
//! A client that may publish to the subjects can forge anything for every machine: give the application an account of
//! its own, credentials and TLS. The account needs permission to publish and subscribe to `<prefix>.>`, to publish to
//! `$JS.API.>` and `$JS.ACK.>`, and to subscribe to `_INBOX.>`. The server stores all values in plain text unless its
//! storage is encrypted.
//!
//! # Rust version
//!
//! This package needs Rust 1.89, because async-nats does. The packages that use a backend work with older versions.

mod builder;
mod bus;
mod clock;
mod connection;
mod deliveries;
mod feed;
mod leases;
mod names;
mod observe;
mod queue;
mod revisions;
mod scan;
mod store;
mod streams;
mod sweep;
mod time;

pub use async_nats;
pub use builder::NatsBuilder;
pub use bus::NatsBus;
pub use queue::NatsQueue;
pub use store::NatsStore;

use async_nats::Client;
use builder::Settings;
use connection::Connection;
use std::sync::Arc;
use sweep::sweep;
use tower_promises_backend::{Backend, BackendError};

/// A NATS server or cluster, and the adapters that use it. Clones are cheap and share the subscriptions.
#[derive(Clone, Debug)]
pub struct NatsBackend {
    store: NatsStore,
    bus: NatsBus,
    queue: NatsQueue,
}

impl NatsBackend {
    /// Opens a backend with the default settings, and creates missing streams.
    ///
    /// Cancel safety: if the future is dropped before it resolves, streams may have been created.
    ///
    /// # Errors
    ///
    /// Those of [`NatsBuilder::open`].
    pub async fn open(client: Client) -> Result<Self, BackendError> {
        Self::builder(client).open().await
    }

    /// Returns a builder for other settings.
    pub fn builder(client: Client) -> NatsBuilder {
        NatsBuilder::new(client)
    }

    async fn open_with(client: Client, settings: Settings) -> Result<Self, BackendError> {
        if !names::is_prefix(&settings.prefix) {
            return Err(BackendError::invalid_name(
                "the prefix is not 1 to 100 letters, digits, `-` and `_`",
            ));
        }
        let sweep_interval = settings.sweep_interval;
        let connection = Connection::open(client, settings).await?;
        let sweep = tokio::spawn(sweep(Arc::downgrade(&connection), sweep_interval));
        connection.abort_on_drop(sweep.abort_handle());
        Ok(Self {
            store: NatsStore::new(connection.clone()),
            bus: NatsBus::new(connection.clone()),
            queue: NatsQueue::new(connection),
        })
    }

    /// Returns all three adapters as a backend.
    #[must_use]
    pub fn backend(&self) -> Backend {
        Backend::new(self.store(), self.bus(), self.queue())
    }

    /// Returns the store. All stores of a backend share one subscription for their watchers.
    #[must_use]
    pub fn store(&self) -> NatsStore {
        self.store.clone()
    }

    /// Returns the bus. All buses of a backend share one subscription for their listeners.
    #[must_use]
    pub fn bus(&self) -> NatsBus {
        self.bus.clone()
    }

    /// Returns the queue.
    #[must_use]
    pub fn queue(&self) -> NatsQueue {
        self.queue.clone()
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
