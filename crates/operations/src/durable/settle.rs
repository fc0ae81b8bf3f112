//! The settlement of a promise from outside its operation.

use super::recollection::Recollection;
use super::takeover::recollect;
use super::token;
use super::wake::{self, Reason};
use crate::changes::CHANGED;
use crate::instance::Instance;
use crate::memory::{Durable, Entry, Fact, Settlement};
use crate::metrics;
use crate::record::{Key, Record, random};
use tower_promises_backend::kit::documents::encode;
use tower_promises_backend::{BackendError, Revision};

/// The result of settling a promise from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it says whether the promise is settled"]
#[non_exhaustive]
pub enum Settling {
    /// The promise is settled now.
    Settled,
    /// The promise was settled before, with the same outcome.
    Repeated,
    /// The promise was settled before, with another outcome. Nothing has changed.
    Conflict,
    /// The deadline of the promise is over, or the operation has ended.
    TooLate,
    /// There is no such operation or promise.
    NotFound,
    /// The operation has no room to remember the outcome.
    TooLarge,
    /// The value does not fit the type of the promise.
    WrongType,
}

/// The promise to settle.
pub(crate) enum Target<'a> {
    Name(&'a str),
    /// The promise that has this token.
    Token(&'a str),
}

/// Settles a promise, unless it has settled. The first settlement counts. A suspended operation continues.
pub(crate) async fn settle(
    instance: &Instance,
    key: &Key,
    target: Target<'_>,
    settlement: &Settlement,
) -> Result<Settling, BackendError> {
    let settling = settle_now(instance, key, target, settlement).await?;
    // The label's values are in the order of the variants.
    metrics::settled(settling as usize);
    Ok(settling)
}

async fn settle_now(
    instance: &Instance,
    key: &Key,
    target: Target<'_>,
    settlement: &Settlement,
) -> Result<Settling, BackendError> {
    loop {
        let Some((record, revision)) = instance.records.read(key).await? else {
            return Ok(Settling::NotFound);
        };
        let Some(durable) = record.durable.as_deref() else {
            return Ok(Settling::NotFound);
        };
        let memory = recollect(instance, key, durable).await?;
        let Some(name) = target.name(instance, durable, &memory) else {
            return Ok(Settling::NotFound);
        };
        let wake = Wake {
            instance,
            key,
            turn: durable.is_suspended().then_some(durable.turn),
            name: &name,
        };
        if let Some(settled) = memory.settlement(&name) {
            if settled.is_same(settlement) {
                // The first call may have ended before it woke the operation.
                wake.now().await?;
                return Ok(Settling::Repeated);
            }
            return Ok(match settled {
                Settlement::TimedOut => Settling::TooLate,
                _ => Settling::Conflict,
            });
        }
        let refusal = refusal(instance, &record, durable, &memory, &name, settlement);
        if let Some(refusal) = refusal {
            return Ok(refusal);
        }
        // The process may end after the settlement is stored. Then this envelope ends the suspension.
        wake.later().await?;
        if store(instance, key, record, revision, &name, settlement).await? {
            wake.now().await?;
            instance.announce(key, CHANGED).await;
            return Ok(Settling::Settled);
        }
    }
}

impl Target<'_> {
    fn name(
        &self,
        instance: &Instance,
        durable: &Durable,
        memory: &Recollection,
    ) -> Option<String> {
        match self {
            Self::Name(name) => Some((*name).to_owned()),
            Self::Token(given) => {
                let secret = &instance.settings.durable.secret;
                let mut names = memory.outside_names();
                let name = names.find(|name| {
                    let token = token::outside(secret, &durable.secret, name);
                    token::is_same(&token, given)
                });
                name.cloned()
            }
        }
    }
}

/// Returns why a promise that has not settled cannot be settled.
fn refusal(
    instance: &Instance,
    record: &Record,
    durable: &Durable,
    memory: &Recollection,
    name: &str,
    settlement: &Settlement,
) -> Option<Settling> {
    let settings = &instance.settings;
    let is_late = memory.until(name).is_some_and(|it| it <= settings.now());
    if is_late || record.status.is_terminal() {
        return Some(Settling::TooLate);
    }
    let of = memory.get(name).and_then(|known| known.outside.clone());
    if let (Some(of), Settlement::Value(value)) = (of.flatten(), settlement) {
        if !instance.types.fits(&of, &value.json) {
            return Some(Settling::WrongType);
        }
    }
    let entry = entry(name, settlement);
    let (entries, bytes) = (durable.journal.len(), durable.journal.bytes());
    let is_full = entries >= settings.durable.max_remembered
        || bytes + entry.bytes() > settings.durable.max_remembered_bytes;
    is_full.then_some(Settling::TooLarge)
}

fn entry(name: &str, settlement: &Settlement) -> Entry {
    Entry {
        name: name.to_owned(),
        fact: Fact::Settled(settlement.clone()),
    }
}

/// Stores a settlement, unless another change came first. Returns whether it is stored.
async fn store(
    instance: &Instance,
    key: &Key,
    mut record: Record,
    revision: Revision,
    name: &str,
    settlement: &Settlement,
) -> Result<bool, BackendError> {
    let backend = &instance.records.backend;
    let (time_to_live, of_parts) = (record.time_to_live(), record.time_to_live_of_parts());
    if let Some(durable) = &mut record.durable {
        let entry = entry(name, settlement);
        let bytes = entry.bytes();
        durable.journal.push(entry, bytes);
        let (prefix, part) = (key.memory(), random()?);
        let moved = durable.journal.move_out(backend, &prefix, part, of_parts);
        moved.await?;
    }
    let (name, value) = (key.record(), encode(&record)?);
    backend
        .set(&name, Some(revision), value, time_to_live)
        .await
}

/// The envelopes that end the suspension of an operation for a settlement.
struct Wake<'a> {
    instance: &'a Instance,
    key: &'a Key,
    /// `None` if the operation is not suspended. Its run learns of the settlement then.
    turn: Option<u64>,
    name: &'a str,
}

impl Wake<'_> {
    async fn now(&self) -> Result<(), BackendError> {
        let Some(turn) = self.turn else {
            return Ok(());
        };
        let envelope = wake::envelope(self.instance, self.key, turn, self.reason())?;
        self.instance.records.backend.enqueue(envelope).await
    }

    async fn later(&self) -> Result<(), BackendError> {
        let Some(turn) = self.turn else {
            return Ok(());
        };
        let envelope = wake::precaution(self.instance, self.key, turn, self.reason())?;
        self.instance.records.backend.enqueue(envelope).await
    }

    fn reason(&self) -> Reason {
        Reason::Settled(self.name.to_owned())
    }
}
