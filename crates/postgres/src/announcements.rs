//! Notifications to other processes.
//!
//! The server serialises the commits of all transactions that notify. So a notification is a statement of its own, after
//! the commit of what it announces: it writes nothing to the disk, and all that has happened while the previous one was
//! under way is announced together. A notification that is lost costs time only.

use super::database::Database;
use super::statement::{Statement, array, text};
use super::wakes::{Topic, Wakes};
use std::collections::HashSet;
use std::mem;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;
use tower_promises_backend::kit::sync::lock;

pub(super) struct Announcements {
    database: Arc<Database>,
    wakes: Arc<Wakes>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    topics: HashSet<Topic>,
    is_running: bool,
}

impl Announcements {
    pub(super) fn new(database: Arc<Database>, wakes: Arc<Wakes>) -> Arc<Self> {
        Arc::new(Self {
            database,
            wakes,
            state: Mutex::default(),
        })
    }

    pub(super) fn wakes(&self) -> &Arc<Wakes> {
        &self.wakes
    }

    /// The channel of notifications, unless they are off. It is also the name of the schema.
    pub(super) fn channel(&self) -> Option<&str> {
        let settings = self.database.settings();
        settings.notify.then_some(&*settings.schema)
    }

    /// Wakes the tasks of all processes that wait for topics, now in this process and soon in others.
    pub(super) fn announce(self: &Arc<Self>, topics: impl IntoIterator<Item = Topic>) {
        let is_on = self.channel().is_some();
        let mut state = lock(&self.state);
        for topic in topics {
            self.wakes.wake(&topic);
            if is_on {
                state.topics.insert(topic);
            }
        }
        if state.is_running || state.topics.is_empty() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        state.is_running = true;
        // A runtime that is shutting down drops the task at once, which takes the lock.
        drop(state);
        let running = Running(self.clone());
        runtime.spawn(async move {
            while let Some(statement) = running.0.next() {
                // Polls of the other processes find what is not announced.
                let _ = running.0.database.run(statement).await;
            }
        });
    }

    /// The next notification. Without one, the task has ended.
    fn next(&self) -> Option<Statement> {
        let channel = self.channel()?;
        let topics = {
            let mut state = lock(&self.state);
            state.is_running = !state.topics.is_empty();
            mem::take(&mut state.topics)
        };
        if topics.is_empty() {
            return None;
        }
        let topics = array("text", topics.iter().map(|topic| text(topic.as_str())));
        Some(Statement::write(format!(
            "SELECT pg_notify({}, topic) FROM unnest({topics}) AS topics (topic)",
            text(channel)
        )))
    }
}

/// The task that notifies.
struct Running(Arc<Announcements>);

impl Drop for Running {
    /// Runs also if the runtime shuts down. A second task, which this allows, would be harmless.
    fn drop(&mut self) {
        lock(&self.0.state).is_running = false;
    }
}
