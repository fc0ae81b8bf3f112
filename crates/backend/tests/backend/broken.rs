//! A queue with a fault, to show which checks detect the fault.

use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tower_promises_backend::memory::MemoryQueue;
use tower_promises_backend::{
    BackendError, BoxFuture, Capabilities, Enqueued, Envelope, Handler, Outcome, Priority, Queue,
    Receipt, Taken, WorkOptions,
};

/// A time that exceeds the patience of all suites.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// How long a slow call takes.
pub(crate) const SLOW: Duration = Duration::from_secs(10);

/// The fault of a [`Broken`] queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    AcceptsAllNames,
    AcceptsAllSizes,
    AddsTwice,
    DeliversTwice,
    LosesEnvelopes,
    ReversesOrder,
    IgnoresPriorities,
    IgnoresDelays,
    LeasesToAll,
    LeasesTooLong,
    LeasesTooShort,
    CountsNothing,
    IgnoresRenewals,
    RenewsLostLeases,
    SettlesLostLeases,
    RetriesTooEarly,
    RetriesNever,
    /// Every second call fails, in some cases after taking effect.
    FailsOften,
    /// The first call that settles an envelope returns an error.
    SettlesInSilence,
    /// Each envelope is settled after [`SLOW`].
    SettlesSlowly,
    TakesNothing,
    RenewsForever,
    LosesLeases,
    /// Not a fault: an envelope that arrives just after a take was dropped is taken and returned.
    GivesBackLate,
}

#[derive(Clone)]
pub(crate) struct Broken {
    pub(crate) fault: Fault,
    pub(crate) queue: MemoryQueue,
    pub(crate) calls: Arc<AtomicUsize>,
}

impl Broken {
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            fault,
            queue: MemoryQueue::builder().max_envelope_bytes(64 * 1024).build(),
            calls: Arc::default(),
        }
    }

    fn every(&self, nth: usize) -> bool {
        self.calls.fetch_add(1, Ordering::SeqCst) % nth == nth - 1
    }

    fn fail(&self) -> Result<(), BackendError> {
        if self.fault == Fault::FailsOften && self.every(2) {
            return Err(BackendError::unavailable("it is broken"));
        }
        Ok(())
    }

    fn name(&self, name: &str) -> String {
        match self.fault {
            Fault::AcceptsAllNames => format!("{:.1000}", name.replace('\n', " ")) + "x",
            _ => name.to_owned(),
        }
    }
}

impl Queue for Broken {
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }

    fn enqueue(&self, mut envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(async move {
            match self.fault {
                Fault::IgnoresDelays => envelope.delay = Duration::ZERO,
                Fault::IgnoresPriorities => envelope.priority = Priority::Normal,
                Fault::LosesEnvelopes if self.every(100) => return Ok(Enqueued::Added),
                Fault::AcceptsAllNames => envelope.queue = self.name(&envelope.queue).into(),
                Fault::AcceptsAllSizes => envelope.payload.truncate(64 * 1024),
                _ => {}
            }
            let enqueued = self.queue.enqueue(envelope.clone()).await?;
            match self.fault {
                Fault::AddsTwice => return Ok(Enqueued::Added),
                // Yields to other tasks, as during a network round trip.
                Fault::GivesBackLate => yield_now().await,
                Fault::DeliversTwice if enqueued == Enqueued::Duplicate => {
                    let again = format!("{} again", envelope.id);
                    let again = Envelope::new(envelope.queue, again, envelope.payload);
                    self.queue.enqueue(again).await?;
                }
                _ => {}
            }
            Ok(enqueued)
        })
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        Box::pin(async move {
            self.fail()?;
            if self.fault == Fault::TakesNothing {
                self.calls.fetch_add(1, Ordering::SeqCst);
                return Err(BackendError::unavailable("it is broken"));
            }
            let real = match self.fault {
                Fault::LeasesToAll => Duration::ZERO,
                Fault::LeasesTooLong => lease.min(HOUR) * 10,
                Fault::LeasesTooShort => lease / 2,
                _ => lease,
            };
            let mut dropped = (self.fault == Fault::GivesBackLate).then(|| DroppedTake {
                queue: self.queue.clone(),
                name: Some(queue.to_owned()),
            });
            let mut taken = self.queue.take(&self.name(queue), limit, real).await?;
            if let Some(dropped) = &mut dropped {
                dropped.name = None;
            }
            for taken in &mut taken {
                match self.fault {
                    Fault::LeasesToAll => taken.leased_until += lease.min(HOUR),
                    Fault::LeasesTooLong => taken.leased_until -= lease.min(HOUR) * 9,
                    Fault::CountsNothing => taken.number = 1,
                    _ => {}
                }
            }
            if self.fault == Fault::ReversesOrder {
                taken.reverse();
            }
            Ok(taken)
        })
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            self.fail()?;
            self.calls.fetch_add(1, Ordering::SeqCst);
            match self.fault {
                Fault::IgnoresRenewals => Ok(true),
                Fault::RenewsForever => future::pending().await,
                Fault::LosesLeases => {
                    let after = Duration::ZERO;
                    let retry = Outcome::Retry { after };
                    self.queue.settle(receipt, retry).await?;
                    Ok(false)
                }
                Fault::RenewsLostLeases => {
                    self.queue.renew(receipt, lease).await?;
                    Ok(true)
                }
                _ => self.queue.renew(receipt, lease).await,
            }
        })
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let outcome = match (self.fault, outcome) {
                (Fault::RetriesTooEarly, Outcome::Retry { after }) => {
                    let after = after / 2;
                    Outcome::Retry { after }
                }
                (Fault::RetriesNever, Outcome::Retry { .. }) => Outcome::GiveUp,
                (_, outcome) => outcome,
            };
            if self.fault == Fault::SettlesSlowly {
                sleep(SLOW).await;
            }
            let settled = self.queue.settle(receipt, outcome).await?;
            // The envelope is settled, but the caller may still get an error.
            self.fail()?;
            if self.fault == Fault::SettlesInSilence {
                self.calls.fetch_add(1, Ordering::SeqCst);
                if settled {
                    return Err(BackendError::unavailable("it is broken"));
                }
            }
            Ok(settled || self.fault == Fault::SettlesLostLeases)
        })
    }
}

/// Simulates a server that has not yet detected that a take was dropped.
struct DroppedTake {
    queue: MemoryQueue,
    /// `None` once the take has resolved.
    name: Option<String>,
}

impl Drop for DroppedTake {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else {
            return;
        };
        let queue = self.queue.clone();
        tokio::spawn(async move {
            let taking = queue.take(&name, 1, Duration::from_secs(60));
            let Ok(Ok(taken)) = timeout(Duration::from_secs(1), taking).await else {
                return;
            };
            // Simulates the network latency.
            sleep(Duration::from_millis(1)).await;
            let after = Duration::ZERO;
            for taken in taken {
                let retry = Outcome::Retry { after };
                queue.settle(&taken.receipt, retry).await.unwrap();
            }
        });
    }
}

/// The fault of a worker.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum WorkFault {
    RunsTooMany,
    TakesTooMany,
    IgnoresShutdown,
    DropsHandlers,
}

/// A correct queue with a faulty worker.
#[derive(Clone)]
pub(crate) struct BrokenWork(pub WorkFault, pub MemoryQueue);

impl Queue for BrokenWork {
    fn capabilities(&self) -> Capabilities {
        self.1.capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        self.1.enqueue(envelope)
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        self.1.take(queue, limit, lease)
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.1.renew(receipt, lease)
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.1.settle(receipt, outcome)
    }

    fn work<'a>(
        &'a self,
        options: WorkOptions,
        handler: Arc<dyn Handler>,
        shutdown: BoxFuture<'a, ()>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let never = Box::pin(future::pending());
        match self.0 {
            WorkFault::RunsTooMany => self.1.work(options.concurrency(100), handler, shutdown),
            WorkFault::TakesTooMany => self.1.work(options.prefetch(100), handler, shutdown),
            WorkFault::IgnoresShutdown => self.1.work(options, handler, never),
            WorkFault::DropsHandlers => {
                let work = self.1.work(options, handler, never);
                Box::pin(async {
                    tokio::select! {
                        ended = work => ended,
                        () = shutdown => Ok(()),
                    }
                })
            }
        }
    }
}
