//! A queue in another process. Each call has a connection of its own, so that it can be dropped.

use super::{Failure, Lines, Process, Remote};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, Capabilities, Delivery, Enqueued, Envelope, Outcome,
    Priority, Queue, Receipt, Taken, WorkOptions,
};

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Enqueue {
        queue: String,
        id: String,
        payload: Vec<u8>,
        priority: u8,
        delay: Duration,
    },
    Take(String, usize, Duration),
    Renew(String, Duration),
    Settle(String, Settlement),
    Work(String, Duration),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Settlement {
    Done,
    Retry(Duration),
    GiveUp,
}

/// The id, the payload, the number, the remaining time of the lease, and the receipt.
type Lent = (String, Vec<u8>, u32, Duration, String);

const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// The deliveries that the workers of another process have begun.
pub struct Begun(Lines);

impl Begun {
    /// Returns the id and the number of the next delivery.
    pub async fn next(&mut self) -> (String, u32) {
        self.0.receive().await.expect("the process still runs")
    }
}

impl Process {
    /// Stops the process, like a machine that sleeps.
    #[cfg(unix)]
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// Continues the process.
    #[cfg(unix)]
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    #[cfg(unix)]
    fn signal(&self, signal: &str) {
        let mut kill = std::process::Command::new("kill");
        let kill = kill.args([signal, &self.child.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// Makes the process work on a queue with handlers that never end.
    pub async fn work(&self, queue: &str, lease: Duration) -> Begun {
        let mut lines = Lines::connect(self.address).await;
        let work = super::Request::Queue(Request::Work(queue.into(), lease));
        lines.call::<()>(&work).await.unwrap();
        Begun(lines)
    }
}

impl Remote {
    async fn ask<T: DeserializeOwned>(&self, request: Request) -> Result<T, BackendError> {
        // The process may have been killed.
        let lines = Lines::try_connect(self.address).await;
        let mut lines = lines.map_err(BackendError::unavailable)?;
        lines.call(&super::Request::Queue(request)).await
    }
}

impl Queue for Remote {
    fn capabilities(&self) -> Capabilities {
        // The capabilities of the default settings.
        Capabilities::new(256 * 1024, Duration::from_secs(120))
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        Box::pin(async move {
            let enqueue = Request::Enqueue {
                queue: envelope.queue.to_string(),
                id: envelope.id.to_string(),
                payload: envelope.payload.into(),
                priority: envelope.priority as u8,
                delay: envelope.delay,
            };
            let is_added: bool = self.ask(enqueue).await?;
            Ok(if is_added {
                Enqueued::Added
            } else {
                Enqueued::Duplicate
            })
        })
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        Box::pin(async move {
            let lines = Lines::try_connect(self.address).await;
            let mut lines = lines.map_err(BackendError::unavailable)?;
            let take = super::Request::Queue(Request::Take(queue.into(), limit, lease));
            let lent: Vec<Lent> = lines.call(&take).await?;
            let left = lent.first().map_or(Duration::ZERO, |lent| lent.3);
            let leased_until = until(&mut lines, left).await;
            let taken = lent.into_iter().map(|(id, payload, number, _, receipt)| {
                let receipt = Receipt::new(receipt);
                Taken::new(id, payload.into(), number, leased_until, receipt)
            });
            Ok(taken.collect())
        })
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.ask(Request::Renew(receipt.as_str().into(), lease)))
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        let settlement = match outcome {
            Outcome::Done => Settlement::Done,
            Outcome::Retry { after } => Settlement::Retry(after),
            Outcome::GiveUp => Settlement::GiveUp,
        };
        Box::pin(self.ask(Request::Settle(receipt.as_str().into(), settlement)))
    }
}

/// The end of a lease by the clock of this process, or a little earlier. The other process tells the remaining time, but
/// its answer may be late, so the end is that time after the question. The question with the fastest answer counts.
async fn until(lines: &mut Lines, left: Duration) -> Instant {
    let mut end = (Duration::MAX, Instant::now() + left);
    for _ in 0..20 {
        let asked = Instant::now();
        if lines.send(&()).await.is_err() {
            break;
        }
        let Some(left) = lines.receive::<Duration>().await else {
            break;
        };
        end = end.min((asked.elapsed(), asked + left));
        if end.0 < Duration::from_millis(2) {
            break;
        }
    }
    end.1
}

/// Executes a request, unless the other side disconnects first.
pub(super) async fn answer(request: Request, lines: &mut Lines, backend: Backend) {
    let queue = backend.queue();
    match request {
        Request::Enqueue {
            queue: name,
            id,
            payload,
            priority,
            delay,
        } => {
            let envelope = Envelope::new(name, id, payload.into())
                .priority(PRIORITIES[usize::from(priority)])
                .delay(delay);
            let enqueued = queue.enqueue(envelope).await;
            tell(lines, enqueued.map(|enqueued| enqueued == Enqueued::Added)).await;
        }
        Request::Take(name, limit, lease) => {
            let taken = tokio::select! {
                taken = queue.take(&name, limit, lease) => taken,
                end = lines.receive::<()>() => return assert_eq!(end, None),
            };
            let first = taken.as_ref().ok().and_then(|taken| taken.first());
            let end = first.map_or_else(Instant::now, |taken| taken.leased_until);
            let left = || end.saturating_duration_since(Instant::now());
            let lent = |taken: Taken| -> Lent {
                let receipt = taken.receipt.as_str().into();
                let payload = taken.payload.into();
                (taken.id.to_string(), payload, taken.number, left(), receipt)
            };
            let lent = taken.map(|taken| taken.into_iter().map(lent).collect::<Vec<_>>());
            tell(lines, lent).await;
            while let Some(()) = lines.receive().await {
                let _ = lines.send(&left()).await;
            }
        }
        Request::Renew(receipt, lease) => {
            let renewed = queue.renew(&Receipt::new(receipt), lease).await;
            tell(lines, renewed).await;
        }
        Request::Settle(receipt, settlement) => {
            let outcome = match settlement {
                Settlement::Done => Outcome::Done,
                Settlement::Retry(after) => Outcome::Retry { after },
                Settlement::GiveUp => Outcome::GiveUp,
            };
            let settled = queue.settle(&Receipt::new(receipt), outcome).await;
            tell(lines, settled).await;
        }
        Request::Work(name, lease) => {
            tell(lines, Ok(())).await;
            let (sender, mut begun) = mpsc::unbounded_channel();
            let handler = move |delivery: Delivery| {
                let _ = sender.send((delivery.id.to_string(), delivery.number));
                future::pending()
            };
            let backend = backend.clone();
            tokio::spawn(async move {
                let options = WorkOptions::new(name).lease(lease);
                let forever = future::pending().boxed();
                backend
                    .queue()
                    .work(options, Arc::new(handler), forever)
                    .await
            });
            while let Some(begun) = begun.recv().await {
                let _ = lines.send(&begun).await;
            }
        }
    }
}

async fn tell<T: Serialize>(lines: &mut Lines, answer: Result<T, BackendError>) {
    // The other side may have disconnected.
    let _ = lines.send(&answer.map_err(Failure::from)).await;
}
