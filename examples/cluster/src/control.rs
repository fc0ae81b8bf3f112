//! Commands from the status page to the supervisor, sent over the bus.

use serde::{Deserialize, Serialize};

/// Returns the name of the signal for a member.
pub(crate) fn signal(member: &str) -> String {
    format!("cluster/control/{member}")
}

/// How to end a member. The supervisor starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum How {
    /// Kills the process, as `kill -9` does.
    Kill,
    /// Lets the process finish its work. Tasks that do not end in time go to another worker.
    Restart,
}
