//! What the status page tells the supervisor, over the bus that all processes share.

use serde::{Deserialize, Serialize};

/// The name of the signal for a member.
pub(crate) fn signal(member: &str) -> String {
    format!("cluster/control/{member}")
}

/// Ends a member. The supervisor starts it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum How {
    /// As `kill -9` does.
    Kill,
    /// It ends what it does, and gives back what it cannot end in time.
    Restart,
}
