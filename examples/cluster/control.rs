//! What the status page tells the supervisor, over the bus that all processes share.

use serde::{Deserialize, Serialize};

/// The name of the signal.
pub(crate) const SIGNAL: &str = "cluster/control";

/// Ends a member. The supervisor starts it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) member: String,
    pub(crate) how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum How {
    /// As `kill -9` does.
    Kill,
    /// It ends what it does, and gives back what it cannot end in time.
    Restart,
}
