/// What a submission under an id does if a task with this id exists, see [`Submit::with_id`](super::Submit::with_id).
///
/// All policies refuse an id of a task of another queue, type or principal with
/// [`TaskError::IdInUse`](super::TaskError::IdInUse).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unique {
    /// Keeps the task if its arguments are the same, and fails with
    /// [`TaskError::OtherArguments`](super::TaskError::OtherArguments) otherwise. This is the default: it makes a
    /// repeated submission idempotent, and detects an id that is used for two purposes.
    #[default]
    Same,
    /// Keeps the first task, whatever the arguments are. The new ones are dropped.
    KeepFirst,
    /// Replaces the task while it waits for its first attempt: arguments, delay and priority are those of the latest
    /// submission. So a delay that is submitted again with each change of a document runs the task once, after the last
    /// change. Calls that wait for the task get the output of its replacement. A task with a [limit](super::TaskLimit)
    /// waits again behind the others of its key.
    ///
    /// From its first attempt on, a task is not replaced: as with [`Same`](Self::Same), the submission succeeds without
    /// effect if the arguments are the same, and fails otherwise.
    Replace,
}
