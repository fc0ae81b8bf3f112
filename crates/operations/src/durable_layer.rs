use super::layer::OperationLayer;
use http::{HeaderName, request};
use std::sync::Arc;

/// The number of open operations of a principal whose list fits into one value of every store.
const MAX_OPEN: usize = 500;

/// Durable operations.
impl OperationLayer {
    /// Sets the requests that become *durable* operations, by default none. Such a request is stored before it runs, the
    /// promises in it that have names are remembered, and if its process is lost, another one continues where it stood.
    /// See [`durable`](super::durable).
    ///
    /// A durable request is an operation whatever [`escalate`](Self::escalate) says. `HEAD`, `OPTIONS`, `TRACE`,
    /// `CONNECT` and web sockets never are, and the closure is not called for them. A closure that looks only at the path
    /// also takes `GET` requests: name the method. Routers call the handler of `GET` for `HEAD` too, so a durable `GET`
    /// should have no effects. Its promises are ordinary ones then: a sleep lasts as long as the connection, and nothing
    /// settles a promise from outside. A route of its own for `HEAD` (`get(report).head(about_report)` in axum) answers
    /// without the work.
    ///
    /// A durable request runs where [`Operations::work`](super::Operations::work) takes it up, and goes on if its client
    /// disconnects. If the store or the queue does not answer, it is refused with 503.
    pub fn durable(
        self,
        predicate: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.durable.predicate = Some(Arc::new(predicate)))
    }

    /// Sets a closure that adds to each run what outer middleware adds to a request, such as the extensions with the
    /// user and the tenant. The request has [`DurableRun`](super::durable::DurableRun) with the principal in its
    /// extensions.
    pub fn rebuild(self, rebuild: impl Fn(&mut request::Parts) + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.durable.rebuild = Arc::new(rebuild))
    }

    /// Sets the headers of a durable request that are stored, by default `Accept`, `Accept-Language`,
    /// `Content-Language`, `Content-Type`, `Host` and `User-Agent`. Headers with credentials should not be stored: the
    /// store keeps them as long as the operation.
    pub fn durable_headers(self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.with(|settings| settings.durable.headers = headers.into_iter().collect())
    }

    /// Sets the name of the queue for the runs of durable operations, by default `operations`. Layers with different
    /// inner services that share a backend need different names.
    pub fn durable_queue(self, name: impl Into<Arc<str>>) -> Self {
        self.with(|settings| settings.durable.queue = name.into())
    }

    /// Sets a secret of the application that is a part of the key for
    /// [tokens](super::durable::DurableRun::outside_url) and
    /// [idempotency keys](super::durable::DurableRun::idempotency_key), by default empty. It is not stored and must be
    /// the same in all processes and for the lifetime of their operations. Without it, a reader of the store can compute
    /// the tokens.
    pub fn durable_secret(self, secret: impl AsRef<[u8]>) -> Self {
        self.with(|settings| settings.durable.secret = secret.as_ref().into())
    }

    /// Sets the number of runs that this process takes up at once, by default 64 and at least one.
    pub fn max_runs(self, runs: usize) -> Self {
        self.with(|settings| settings.durable.max_runs = runs.max(1))
    }

    /// Sets how often in a row a run of an operation may be lost with its process before the operation is `Failed` with
    /// the code `Lost`, by default 3. A run that has remembered something, or was suspended, starts the count again. A
    /// run that was given back by [`drain`](super::Operations::drain) does not count.
    pub fn max_recoveries(self, recoveries: u32) -> Self {
        self.with(|settings| settings.durable.max_recoveries = recoveries)
    }

    /// Sets the number of entries that an operation may remember, by default 1,000. A promise takes one entry, and one
    /// more if it sleeps or is settled from outside.
    pub fn max_remembered(self, entries: usize) -> Self {
        self.with(|settings| settings.durable.max_remembered = entries)
    }

    /// Sets the size of all that an operation may remember, in bytes, by default 1 MiB.
    pub fn max_remembered_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.durable.max_remembered_bytes = bytes)
    }

    /// Sets the number of durable operations that have not ended, suspended ones included, in all processes, by default
    /// 10,000. Further requests are refused with 503, and nothing of them is stored. All processes should have the same
    /// limit: operations are counted among those that were accepted with the same one.
    ///
    /// From 64 on the limit is approximate: when more than nine tenths of it are used, a request may be refused. The
    /// count takes one small change in the store at the beginning of an operation, and one at its end. With
    /// [`usize::MAX`], operations are not counted.
    ///
    /// The queue and the store must have room for that many, and for those that have ended and are retained. The memory
    /// adapters have room for the default if an operation takes less than about 5 KiB: its body, what it remembers, and
    /// about 2 KiB.
    pub fn max_open(self, operations: usize) -> Self {
        self.with(|settings| settings.durable.max_open = operations)
    }

    /// Sets the number of durable operations of a principal that have not ended, in all processes, by default 100 and at
    /// most 500. Further requests of the principal are refused with 429. Requests without a principal are not limited.
    pub fn max_open_per_principal(self, operations: usize) -> Self {
        self.with(|settings| settings.durable.max_open_per_principal = operations.min(MAX_OPEN))
    }

    /// Sets which promises a suspended operation names in its status document and on its page, by default none.
    pub fn show_waiting(self, shows: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.durable.shows = Arc::new(shows))
    }

    /// Sets the clock, in milliseconds since the epoch, for tests with paused time.
    #[doc(hidden)]
    pub fn clock(self, now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.with(|settings| settings.clock = Arc::new(now))
    }
}
