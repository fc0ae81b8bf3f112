//! Adapters for many machines: a NATS server with JetStream, or a cluster, is what they share.
//!
//! ```no_run
//! use tower_promises_backend::Backend;
//! use tower_promises_nats::async_nats;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // On each machine:
//! let client = async_nats::connect("nats.internal:4222").await?;
//! let backend = Backend::nats(client).await?;
//! backend.store().put("greeting", "hello".into(), None).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # When to use it
//!
//! For a service that runs on more than one machine. Every call is one or two round trips to the server, fractions of
//! a millisecond in a local network, and what one machine says the others hear at once. For the processes of one
//! machine SQLite needs no server; for one process the [`memory`](super::memory) adapters are faster.
//!
//! # What it needs
//!
//! 1. A server from 2.9 on, with JetStream (`nats-server -js -sd directory`). It is tested with 2.9.10
//!    and with 2.15.1.
//! 2. A client of [`async_nats`], made by the application: addresses, credentials, TLS and the features of
//!    that crate are its own. The options `no_echo` and an inbox prefix of which the user may not publish do
//!    not work.
//! 3. A runtime of tokio with time and I/O enabled. New messages and changes are read by a task in the runtime of the
//!    first who listens; when that runtime ends, so do the streams of all listeners.
//!
//! # Clocks
//!
//! Times to live, leases and delays begin at a time that the server stamps, and end by the clock of the server. A process
//! asks for it when it opens the backend, then each minute, after each new connection, and before it finds something to be
//! over if the last answer is older than a second; in between its own monotonic clock counts on. So the clocks of the
//! machines need not agree with that of the server, and may be set. Where the clock of the server is set, processes that
//! have the backend open see that and count on. A process that opens the backend afterwards does not know of it: for it,
//! what began before a step forward is over that much earlier, and what began before a step back that much later, until it
//! is renewed. The servers of a cluster should agree within a second.
//!
//! # What it makes
//!
//! With the default [prefix](NatsBuilder::prefix) there are three streams. `tower-promises-store` has a message for
//! each key. `tower-promises-queue` has one for each envelope, and a durable consumer for each queue.
//! `tower-promises-leases` has a record for each envelope that was taken. The subjects start with `tower-promises.`;
//! keys, topics, queues and ids are in base64url in them. Those who watch and listen use plain subscriptions to what
//! the server republishes, and to the bus. The streams belong to this crate alone: the tools of NATS may look at them
//! and change their limits, not their messages.
//!
//! What is gone is made again: the call that finds a stream missing makes all streams, once for all calls that need them,
//! and is made again. A worker whose consumer is gone, because it was deleted, expired, or was lost with its server, notices
//! that within three seconds and makes it anew. What was in a stream is lost with it: values are absent, and receipts and
//! revisions of before fit nothing. A watch says that changes are missing and goes on. Streams are made with the settings of
//! the process that makes them again. Servers before 2.10 count the revisions of a new stream from one, so with them a
//! revision of before may be that of a later value. Each stream that is made again is a warning in the log, with its name.
//! Stop all processes before you restore a stream from a backup: one that runs makes an empty stream in its place.
//!
//! # What survives what
//!
//! | | values, envelopes | messages and changes |
//! |---|---|---|
//! | a restart or crash of a process | all | those that it had yet to hear are not heard |
//! | a restart, a crash or `kill -9` of the server | all that were acknowledged, and the ids of envelopes that have not ended | listeners and watchers get an error and listen again |
//! | a crash of the server's machine, loss of power | all but those of the last `sync_interval` of the server, by default two minutes; with [replicas](NatsBuilder::replicas) all | the same |
//! | the loss of a server's disk, or of its memory with [in-memory](NatsBuilder::in_memory) streams | none, or with replicas all | the same |
//!
//! The client reconnects by itself. Meanwhile calls wait, and are [`TimedOut`](super::BackendError::TimedOut) after the
//! [timeout](NatsBuilder::timeout); what they wanted may still happen when the connection is back. Workers go on.
//!
//! In a cluster the leader of a stream answers all calls. When a leader that was cut off does not know it yet, a
//! [`get`](super::Store::get) may for a moment see what was there before. Changes are decided by a majority and
//! are never lost or decided twice.
//!
//! # Limits
//!
//! [`NatsBuilder`] has the settings: largest sizes, how much is kept in memory for listeners that fall behind, and how
//! many envelopes and [values](NatsBuilder::max_values) there are at most. Do not limit the bytes of the streams:
//! servers of 2.9 then delete what they have acknowledged. Those of the account can be limited. What is over is deleted
//! by a [sweep](NatsBuilder::sweep_interval) of one process at a time. Every process that watches hears the changes of
//! all keys. The bus is at most once: messages in flight are lost with a connection, and when the client's own buffer
//! of 65536 messages overflows because the runtime stands still.
//!
//! # Cancel safety
//!
//! Every future may be dropped. What it has sent by then, the server does. An envelope that was just being taken is
//! given back at once, or delivered again when its lease ends if the server could not be told. Either way others of its
//! queue may come before it.
//!
//! # Panics
//!
//! Only outside of a runtime of tokio with time enabled.
//!
//! # Security
//!
//! Who may publish to the subjects can make every machine believe anything: give the application an account of its own,
//! credentials and TLS. It needs to publish to and subscribe to `<prefix>.>`, to publish to `$JS.API.>` and
//! `$JS.ACK.>`, and to subscribe to `_INBOX.>`. The server holds all values in the clear unless its storage is
//! encrypted.
//!
//! # Rust version
//!
//! async-nats needs Rust 1.89, so this feature does, though the rest of the crate is content with an older one.

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
mod store;
mod streams;
mod sweep;
mod time;

pub use async_nats;
pub use builder::NatsBuilder;
pub use bus::NatsBus;
pub use queue::NatsQueue;
pub use store::NatsStore;

use tower_promises_backend::{Backend, BackendError};
use async_nats::Client;
use builder::Settings;
use connection::Connection;

/// A server or cluster of NATS, from which the adapters come. Clones are cheap and share its subscriptions.
#[derive(Clone, Debug)]
pub struct NatsBackend {
    store: NatsStore,
    bus: NatsBus,
    queue: NatsQueue,
}

impl NatsBackend {
    /// Opens a backend with the default settings, and creates its streams if they do not exist.
    ///
    /// Cancel safety: dropped before it resolves, streams may have been created.
    ///
    /// # Errors
    ///
    /// Those of [`NatsBuilder::open`].
    pub async fn open(client: Client) -> Result<Self, BackendError> {
        Self::builder(client).open().await
    }

    /// Opens a backend with other settings.
    pub fn builder(client: Client) -> NatsBuilder {
        NatsBuilder::new(client)
    }

    async fn open_with(client: Client, settings: Settings) -> Result<Self, BackendError> {
        if !names::is_prefix(&settings.prefix) {
            return Err(BackendError::InvalidName {
                reason: "the prefix is not 1 to 100 letters, digits, `-` and `_`",
            });
        }
        let connection = Connection::open(client, settings).await?;
        Ok(Self {
            store: NatsStore::new(connection.clone()),
            bus: NatsBus::new(connection.clone()),
            queue: NatsQueue::new(connection),
        })
    }

    /// All that it has, as a backend.
    #[must_use]
    pub fn backend(&self) -> Backend {
        Backend::new(self.store(), self.bus(), self.queue())
    }

    /// Its store. All stores of a backend share one subscription for their watchers.
    #[must_use]
    pub fn store(&self) -> NatsStore {
        self.store.clone()
    }

    /// Its bus. All buses of a backend share one subscription for their listeners.
    #[must_use]
    pub fn bus(&self) -> NatsBus {
        self.bus.clone()
    }

    /// Its queue.
    #[must_use]
    pub fn queue(&self) -> NatsQueue {
        self.queue.clone()
    }
}
