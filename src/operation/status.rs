/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It waits for its turn.
    NotStarted,
    /// It is at work.
    Running,
    /// It has ended, and there is a result.
    Succeeded,
    /// It has ended without a result that is of use.
    Failed,
    /// Somebody has cancelled it.
    Canceled,
}
