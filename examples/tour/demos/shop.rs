//! What the durable request calls: a payment provider, a mailbox and a carrier.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::info;

/// The number of receipts, and of mails, that are kept.
const MAX_KEPT: usize = 64;

#[derive(Default)]
pub(super) struct Shop {
    books: Mutex<Books>,
    death: Notify,
}

#[derive(Default)]
struct Books {
    /// By idempotency key.
    receipts: VecDeque<(String, String)>,
    mails: VecDeque<Mail>,
    charges: usize,
    parcels: usize,
    /// The number of mails so far.
    sent: usize,
}

/// A message for the approver.
#[derive(Clone)]
pub(super) struct Mail {
    pub(super) number: usize,
    /// The path at which the request takes the answer.
    pub(super) link: String,
    pub(super) answer: Option<&'static str>,
}

impl Shop {
    /// Charges the card, once for each key. If `dies`, the worker dies after the first charge.
    pub(super) fn charge(
        self: &Arc<Self>,
        key: Option<String>,
        dies: bool,
    ) -> impl Future<Output = String> + Send + use<> {
        let shop = self.clone();
        async move {
            sleep(Duration::from_millis(400)).await;
            let (receipt, is_new) = shop.books().charge(key.unwrap_or_default());
            if !is_new {
                info!("the provider knows the key: it repeats its answer and charges nothing");
                return receipt;
            }
            info!("the provider charges the card");
            if dies {
                info!("the worker dies before it has the answer");
                shop.death.notify_one();
                return pending().await;
            }
            receipt
        }
    }

    /// Sends the link to the approver.
    pub(super) fn mail(self: &Arc<Self>, link: String) -> impl Future<Output = ()> + Send + use<> {
        let shop = self.clone();
        async move {
            sleep(Duration::from_millis(100)).await;
            shop.books().mail(link);
        }
    }

    pub(super) fn ship(self: &Arc<Self>) -> impl Future<Output = String> + Send + use<> {
        let shop = self.clone();
        async move {
            sleep(Duration::from_millis(200)).await;
            let mut books = shop.books();
            books.parcels += 1;
            format!("parcel {}", books.parcels)
        }
    }

    /// Returns the mails, newest first.
    pub(super) fn mails(&self) -> Vec<Mail> {
        self.books().mails.iter().rev().cloned().collect()
    }

    /// Notes what has become of the approver's answer.
    pub(super) fn answered(&self, number: usize, answer: &'static str) {
        let mut books = self.books();
        let mail = books.mails.iter_mut().find(|mail| mail.number == number);
        if let Some(mail) = mail {
            mail.answer = Some(answer);
        }
    }

    /// Resolves when a worker should die.
    pub(super) async fn death(&self) {
        self.death.notified().await;
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Returns the receipt, and whether there was a charge.
    fn charge(&mut self, key: String) -> (String, bool) {
        if let Some((_, receipt)) = self.receipts.iter().find(|(known, _)| *known == key) {
            return (receipt.clone(), false);
        }
        self.charges += 1;
        let receipt = format!("receipt {}", self.charges);
        keep(&mut self.receipts, (key, receipt.clone()));
        (receipt, true)
    }

    /// A repeated mail is the same mail.
    fn mail(&mut self, link: String) {
        if self.mails.iter().any(|mail| mail.link == link) {
            return;
        }
        self.sent += 1;
        let (number, answer) = (self.sent, None);
        keep(
            &mut self.mails,
            Mail {
                number,
                link,
                answer,
            },
        );
    }
}

/// Forgets the oldest entry if there are too many.
fn keep<T>(entries: &mut VecDeque<T>, entry: T) {
    if entries.len() == MAX_KEPT {
        entries.pop_front();
    }
    entries.push_back(entry);
}
