//! The series of registered queues, task types and schedules.

use super::TaskState;
use super::metrics::{
    ATTEMPT_DURATION, ATTEMPTS, DEAD_LETTERS, ENDED, IN_FLIGHT, STARTED, SUBMITTED, WAIT_DURATION,
};
#[cfg(feature = "schedules")]
use super::metrics::{DUE_TIMES, SCHEDULE_ERRORS};
use super::record::Letter;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tower_promises_backend::kit::metrics::{self, Metric, Series, Timed};

/// The outcome of an attempt, in the order of [`ATTEMPT_OUTCOMES`].
#[derive(Clone, Copy, Debug)]
pub(super) enum AttemptOutcome {
    Succeeded,
    Failed,
    Retried,
    Cancelled,
    Dead,
    Returned,
    Aborted,
    Lost,
}

const ATTEMPT_OUTCOMES: [&str; 8] = [
    "succeeded",
    "failed",
    "retried",
    "cancelled",
    "dead",
    "returned",
    "aborted",
    "lost",
];

impl AttemptOutcome {
    /// Returns the outcome of an attempt that ends its task.
    pub(super) fn of(state: TaskState) -> Self {
        match state {
            TaskState::Succeeded => Self::Succeeded,
            TaskState::Cancelled => Self::Cancelled,
            TaskState::Dead => Self::Dead,
            TaskState::Failed | TaskState::Queued | TaskState::Running => Self::Failed,
        }
    }
}

/// The outcomes of a task, in their order.
const OUTCOMES: [(TaskState, &str); 4] = [
    (TaskState::Succeeded, "succeeded"),
    (TaskState::Failed, "failed"),
    (TaskState::Cancelled, "cancelled"),
    (TaskState::Dead, "dead"),
];

/// The change of a dead letter, in the order of [`LETTER_CHANGES`].
#[derive(Clone, Copy, Debug)]
pub(super) enum LetterChange {
    Added,
    SentAgain,
    Discarded,
    Dropped,
}

const LETTER_CHANGES: [&str; 4] = ["added", "sent_again", "discarded", "dropped"];

/// The decision about a due time, in the order of [`DUE_OUTCOMES`].
#[cfg(feature = "schedules")]
#[derive(Clone, Copy, Debug)]
pub(super) enum DueOutcome {
    Run,
    Missed,
    Overlapping,
    Failed,
}

#[cfg(feature = "schedules")]
const DUE_OUTCOMES: [&str; 4] = ["run", "missed", "overlapping", "failed"];

/// The series of the names that a process has registered. Names that it has not registered share the series `unknown`.
#[derive(Debug)]
pub(super) struct Meters {
    queues: HashMap<Arc<str>, QueueMeters>,
    unknown: QueueMeters,
    #[cfg(feature = "schedules")]
    schedules: HashMap<Arc<str>, ScheduleMeters>,
}

#[derive(Debug)]
struct QueueMeters {
    types: HashMap<&'static str, TaskMeters>,
    unknown: TaskMeters,
    letters: [Series; LETTER_CHANGES.len()],
}

/// The series of a task type in a queue.
#[derive(Debug)]
pub(super) struct TaskMeters {
    submitted: Series,
    started: Series,
    waits: Series,
    ended: [Series; OUTCOMES.len()],
    in_flight: Series,
    attempts: [Series; ATTEMPT_OUTCOMES.len()],
    durations: Series,
}

#[cfg(feature = "schedules")]
#[derive(Debug)]
struct ScheduleMeters {
    due_times: [Series; DUE_OUTCOMES.len()],
    errors: Series,
}

const UNKNOWN: &str = "unknown";

impl Meters {
    /// Registers queues with the names of their task types.
    pub(super) fn new<'a, T>(queues: impl Iterator<Item = (&'a Arc<str>, T)>) -> Self
    where
        T: Iterator<Item = &'static str>,
    {
        let registered = queues.filter(|_| metrics::IS_ON);
        Self {
            queues: registered
                .map(|(name, types)| (name.clone(), QueueMeters::registered(name, types)))
                .collect(),
            unknown: QueueMeters::new(UNKNOWN, Metric::series),
            #[cfg(feature = "schedules")]
            schedules: HashMap::new(),
        }
    }

    #[cfg(feature = "schedules")]
    pub(super) fn with_schedules<'a>(mut self, names: impl Iterator<Item = &'a Arc<str>>) -> Self {
        let registered = names.filter(|_| metrics::IS_ON);
        self.schedules = registered
            .map(|name| (name.clone(), ScheduleMeters::new(name)))
            .collect();
        self
    }

    fn queue(&self, name: &str) -> &QueueMeters {
        if !metrics::IS_ON {
            return &self.unknown;
        }
        self.queues.get(name).unwrap_or(&self.unknown)
    }

    /// Returns the series of a task type in a queue.
    pub(super) fn task(&self, queue: &str, task: &str) -> &TaskMeters {
        let queue = self.queue(queue);
        if !metrics::IS_ON {
            return &queue.unknown;
        }
        queue.types.get(task).unwrap_or(&queue.unknown)
    }

    pub(super) fn of(&self, letter: &Letter) -> &TaskMeters {
        self.task(&letter.queue, &letter.task)
    }

    /// Counts the end of a task.
    pub(super) fn ended(&self, queue: &str, task: &str, state: TaskState) {
        let outcome = OUTCOMES.iter().position(|(outcome, _)| *outcome == state);
        if let Some(outcome) = outcome {
            self.task(queue, task).ended[outcome].add(1);
        }
        if state == TaskState::Dead {
            self.letter_changed(queue, LetterChange::Added, 1);
        }
    }

    pub(super) fn letter_changed(&self, queue: &str, change: LetterChange, letters: usize) {
        self.queue(queue).letters[change as usize].add(letters as u64);
    }

    #[cfg(feature = "schedules")]
    pub(super) fn decided(&self, schedule: &str, outcome: DueOutcome) {
        if let Some(schedule) = self.schedules.get(schedule) {
            schedule.due_times[outcome as usize].add(1);
        }
    }

    #[cfg(feature = "schedules")]
    pub(super) fn schedule_failed(&self, schedule: &str) {
        if let Some(schedule) = self.schedules.get(schedule) {
            schedule.errors.add(1);
        }
    }
}

/// Makes a series of a metric, with labels.
type Make = fn(&Metric, &[(&'static str, &str)]) -> Series;

impl QueueMeters {
    fn registered(queue: &str, types: impl Iterator<Item = &'static str>) -> Self {
        Self {
            types: types
                .map(|task| (task, TaskMeters::new(queue, task, Metric::register)))
                .collect(),
            ..Self::new(queue, Metric::register)
        }
    }

    fn new(queue: &str, make: Make) -> Self {
        Self {
            types: HashMap::new(),
            unknown: TaskMeters::new(queue, UNKNOWN, Metric::series),
            letters: LETTER_CHANGES
                .map(|change| make(&DEAD_LETTERS, &[("queue", queue), ("change", change)])),
        }
    }
}

impl TaskMeters {
    fn new(queue: &str, task: &str, make: Make) -> Self {
        let one = |metric: &Metric| make(metric, &[("queue", queue), ("task", task)]);
        let of = |metric: &Metric, outcome| {
            make(
                metric,
                &[("queue", queue), ("task", task), ("outcome", outcome)],
            )
        };
        Self {
            submitted: one(&SUBMITTED),
            started: one(&STARTED),
            waits: one(&WAIT_DURATION),
            ended: OUTCOMES.map(|(_, outcome)| of(&ENDED, outcome)),
            in_flight: one(&IN_FLIGHT),
            attempts: ATTEMPT_OUTCOMES.map(|outcome| of(&ATTEMPTS, outcome)),
            durations: one(&ATTEMPT_DURATION),
        }
    }

    pub(super) fn submitted(&self) {
        self.submitted.add(1);
    }

    /// Counts the first attempt of a task, after it has waited.
    pub(super) fn started(&self, waited: Duration) {
        self.started.add(1);
        self.waits.record(waited);
    }

    /// Counts an attempt whose end was not recorded.
    pub(super) fn lost(&self) {
        self.attempts[AttemptOutcome::Lost as usize].add(1);
    }

    /// Starts an attempt.
    pub(super) fn attempt(&self) -> Timed<'_> {
        Timed::start(
            &self.in_flight,
            &self.attempts,
            std::slice::from_ref(&self.durations),
            AttemptOutcome::Aborted as usize,
        )
    }
}

#[cfg(feature = "schedules")]
impl ScheduleMeters {
    fn new(name: &str) -> Self {
        Self {
            due_times: DUE_OUTCOMES
                .map(|outcome| DUE_TIMES.register(&[("schedule", name), ("outcome", outcome)])),
            errors: SCHEDULE_ERRORS.register(&[("schedule", name)]),
        }
    }
}
