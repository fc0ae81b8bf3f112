//! Snapshots of the database, which tell the transactions whose effects a statement has seen.

use std::fmt;

/// A snapshot. All transactions before `first_running` have ended, none from `next` on had begun, and those in between
/// have ended unless they are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    first_running: u64,
    next: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// Reads the format of `pg_snapshot`: `10:20:10,14,15`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (first_running, rest) = text.split_once(':')?;
        let (next, running) = rest.split_once(':')?;
        let running = running.split(',').filter(|number| !number.is_empty());
        Some(Self {
            first_running: first_running.parse().ok()?,
            next: next.parse().ok()?,
            running: running.map(str::parse).collect::<Result<_, _>>().ok()?,
        })
    }

    /// Whether the effects of a transaction that was committed later or earlier are in the snapshot.
    pub(super) fn sees(&self, transaction: u64) -> bool {
        transaction < self.first_running
            || transaction < self.next && !self.running.contains(&transaction)
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.first_running, self.next)?;
        for (number, running) in self.running.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(f, "{comma}{running}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Snapshot;

    #[test]
    fn a_snapshot_sees_transactions_that_had_ended() {
        for text in ["10:20:10,14,15", "7:7:"] {
            let snapshot = Snapshot::parse(text).expect("it is a snapshot");
            assert_eq!(snapshot.to_string(), text);
        }
        let snapshot = Snapshot::parse("10:20:10,14").expect("it is a snapshot");
        for seen in [1, 9, 11, 13, 19] {
            assert!(snapshot.sees(seen), "{seen}");
        }
        for unseen in [10, 14, 20, 21] {
            assert!(!snapshot.sees(unseen), "{unseen}");
        }
        for wrong in ["", "1", "1:2", "a:2:", "1:2:x"] {
            assert_eq!(Snapshot::parse(wrong), None, "{wrong}");
        }
    }
}
