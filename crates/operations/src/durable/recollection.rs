//! The memory of a run in this process.

use super::recording::{ChangedType, Replayed};
use crate::memory::{Entry, Fact, Settlement, WaitKind, Waiting};
use std::collections::{BTreeSet, HashMap};

/// What a run knows of its promises.
#[derive(Debug, Default)]
pub(super) struct Recollection {
    /// The number of entries of the journal that are known, and their size.
    pub(super) known: usize,
    pub(super) bytes: usize,
    promises: HashMap<String, Remembered>,
    /// Entries that are not stored yet.
    pending: Vec<Entry>,
    /// The promises that are waiting now.
    pub(super) waiting: HashMap<String, Waiting>,
    /// The names that were remembered when the run began.
    inherited: BTreeSet<String>,
    /// The names that the run has requested.
    requested: BTreeSet<String>,
    /// The values that were requested with another type than the remembered one.
    changed: Vec<ChangedType>,
}

/// The stored facts about a promise.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub(super) until: Option<u64>,
    /// The promise can be settled from outside, perhaps with a value of this type.
    pub(super) outside: Option<Option<String>>,
    pub(super) settlement: Option<Settlement>,
}

impl Remembered {
    /// Whether the address of the promise is known to work. A settled promise has one, because the application may settle
    /// it by name before the handler asks for its address.
    pub(super) fn has_address(&self) -> bool {
        self.outside.is_some() || self.settlement.is_some()
    }
}

impl Recollection {
    /// Creates the memory of a journal with this number of entries and this size.
    pub(super) fn of((known, bytes): (usize, usize), entries: &[Entry]) -> Self {
        let mut memory = Self {
            known,
            bytes,
            ..Self::default()
        };
        memory.learn(entries);
        memory.inherited = memory.promises.keys().cloned().collect();
        memory
    }

    pub(super) fn get(&self, name: &str) -> Option<&Remembered> {
        self.promises.get(name)
    }

    pub(super) fn settlement(&self, name: &str) -> Option<&Settlement> {
        self.get(name)?.settlement.as_ref()
    }

    /// The promises with an address at which they can be settled, or were.
    pub(super) fn outside_names(&self) -> impl Iterator<Item = &String> {
        let outside = self.promises.iter();
        let outside = outside.filter(|(_, remembered)| remembered.has_address());
        outside.map(|(name, _)| name)
    }

    pub(super) fn until(&self, name: &str) -> Option<u64> {
        self.get(name)?.until
    }

    /// Returns the settlements of sleeps whose due time has come, and which are not stored.
    pub(super) fn due_sleeps(&self, now: u64) -> Vec<Entry> {
        let sleeps = self.promises.iter().filter(|(_, remembered)| {
            let is_due = remembered.until.is_some_and(|until| until <= now);
            is_due && remembered.outside.is_none() && remembered.settlement.is_none()
        });
        let slept = || Fact::Settled(Settlement::slept());
        sleeps
            .map(|(name, _)| Entry {
                name: name.clone(),
                fact: slept(),
            })
            .collect()
    }

    pub(super) fn request(&mut self, name: &str) {
        if !self.requested.contains(name) {
            self.requested.insert(name.to_owned());
        }
    }

    pub(super) fn change_type(&mut self, changed: ChangedType) {
        self.changed.push(changed);
    }

    /// Compares what is remembered with what was requested.
    pub(super) fn replayed(&self) -> Replayed {
        let (requested, inherited) = (&self.requested, &self.inherited);
        Replayed {
            new: requested.difference(inherited).cloned().collect(),
            unread: inherited.difference(requested).cloned().collect(),
            changed: self.changed.clone(),
        }
    }

    /// Whether the run has requested promises, and none of those that were remembered when it began.
    pub(super) fn has_other_names(&self) -> bool {
        let are_named = !self.requested.is_empty() && !self.inherited.is_empty();
        are_named && self.requested.is_disjoint(&self.inherited)
    }

    /// Whether a fact of this kind is stored for this name.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let Some(remembered) = self.promises.get(&entry.name) else {
            return false;
        };
        match &entry.fact {
            Fact::Until(_) => remembered.until.is_some(),
            Fact::Outside(None) => remembered.outside.is_some(),
            // The address of a promise may be requested before its type is known.
            Fact::Outside(Some(_)) => matches!(remembered.outside, Some(Some(_))),
            Fact::Settled(_) => remembered.settlement.is_some(),
        }
    }

    /// Learns stored entries. The first of a kind counts, as in all processes.
    pub(super) fn learn<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
        for entry in entries {
            let remembered = self.promises.entry(entry.name.clone()).or_default();
            match &entry.fact {
                Fact::Until(at) => {
                    remembered.until.get_or_insert(*at);
                }
                Fact::Outside(of) => {
                    let known = remembered.outside.get_or_insert_default();
                    *known = known.take().or_else(|| of.clone());
                }
                Fact::Settled(settlement) => {
                    remembered
                        .settlement
                        .get_or_insert_with(|| settlement.clone());
                }
            }
        }
        let pending = std::mem::take(&mut self.pending);
        self.pending = pending
            .into_iter()
            .filter(|entry| !self.has(entry))
            .collect();
    }

    /// Adds an entry that has to be stored.
    pub(super) fn want(&mut self, entry: &Entry) {
        if !self.has(entry) && !self.pending.contains(entry) {
            self.pending.push(entry.clone());
        }
    }

    pub(super) fn pending(&self) -> &[Entry] {
        &self.pending
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.iter().map(Entry::bytes).sum()
    }

    pub(super) fn wait(&mut self, name: &str, kind: WaitKind, until: Option<u64>) {
        let waiting = Waiting {
            name: name.to_owned(),
            kind,
            until,
            is_shown: false,
        };
        self.waiting.insert(name.to_owned(), waiting);
    }
}
