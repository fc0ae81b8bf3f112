use super::record::Key;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::OwnedMutexGuard;
use tower_promises_backend::kit::sync::lock;

/// The calls of the application that this process makes now, one at a time for an operation. The process that ends an
/// operation and the request that cancels it tell the end at the same time.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits until no other call for this operation is made.
    pub(super) async fn wait(&self, key: &Key) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(key).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(key.clone(), Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}
