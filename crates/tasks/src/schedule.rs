//! The definition of a schedule: its times and its task.

use super::draft::Draft;
use super::{Principal, Task, TaskError};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tower_promises_backend::kit::clock::{milliseconds, time};

/// Periods in which [`Schedule::latest`] searches, in milliseconds: a minute, an hour, a day, a month, a year, and the
/// longest time between two 29ths of February.
const PERIODS: [u64; 6] = {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    [
        60 * 1000,
        60 * 60 * 1000,
        DAY,
        31 * DAY,
        366 * DAY,
        8 * 366 * DAY,
    ]
};

/// A named schedule: a cron expression with a time zone, and the task that is submitted at its times.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use tower_promises_tasks::{Task, TaskContext, TaskFailure};
/// # #[derive(Serialize, Deserialize)]
/// # struct Report { day: std::time::SystemTime }
/// # impl Task for Report {
/// #     const NAME: &'static str = "report";
/// #     type Output = ();
/// #     async fn run(self, _: TaskContext) -> Result<(), TaskFailure> { Ok(()) }
/// # }
/// use tower_promises_backend::Backend;
/// use tower_promises_tasks::{InvalidSchedule, Principal, Schedule, TaskQueueOptions, Tasks};
///
/// # fn main() -> Result<(), InvalidSchedule> {
/// // At three in the morning, in Berlin, from Monday to Friday.
/// let nightly = Schedule::new("nightly", "reports", "0 3 * * 1-5", |due| Report { day: due })?
///     .time_zone("Europe/Berlin")?
///     .principal(Principal::new("system/nightly"));
/// let tasks = Tasks::builder(Backend::memory())
///     .queue(TaskQueueOptions::new("reports").task::<Report>())
///     .schedule(nightly)
///     .build();
/// # let _ = tasks;
/// # Ok(())
/// # }
/// ```
///
/// [`guide`](super::guide#schedules) has the rules.
#[derive(Clone)]
#[must_use = "give it to `TasksBuilder::schedule`"]
pub struct Schedule {
    pub(super) name: Arc<str>,
    pub(super) queue: Arc<str>,
    pub(super) task: &'static str,
    pub(super) draft: Arc<MakeDraft>,
    expression: Arc<str>,
    cron: Arc<Cron>,
    zone_name: Arc<str>,
    zone: TimeZone,
    pub(super) missed: Missed,
    pub(super) overlap: bool,
    pub(super) principal: Option<Principal>,
    pub(super) start_within: Duration,
}

/// Returns the task of a due time. It may panic.
pub(super) type MakeDraft =
    dyn Fn(SystemTime, Option<&Principal>) -> Result<Draft, TaskError> + Send + Sync;

/// What happens to due times that passed while no process kept the schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// The latest missed due time runs, and the others do not. If a later due time runs on time, none of them runs.
    #[default]
    RunOnce,
    /// No missed due time runs.
    Skip,
}

impl Schedule {
    /// Creates a schedule that submits a task to a queue, in UTC.
    ///
    /// The name is unique in the backend. It identifies the schedule in all processes and in later deployments. The
    /// function creates the task of a due time. It should depend on the due time only. A panic in it is logged, and
    /// that due time has no run.
    ///
    /// The expression has five fields: minute, hour, day of the month, month, day of the week. A sixth field, at the
    /// beginning, is for seconds. Names (`MON`, `JAN`), ranges, steps, lists, `L`, `W`, `#` and nicknames such as
    /// `@daily` are understood. If both days are restricted, either of them suffices.
    ///
    /// # Errors
    ///
    /// [`InvalidSchedule`] if the expression cannot be parsed.
    pub fn new<T: Task>(
        name: impl Into<Arc<str>>,
        queue: impl Into<Arc<str>>,
        expression: &str,
        task: impl Fn(SystemTime) -> T + Send + Sync + 'static,
    ) -> Result<Self, InvalidSchedule> {
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let cron = parser.parse(expression);
        let cron =
            cron.map_err(|error| InvalidSchedule::new("cron expression", expression, error))?;
        Ok(Self {
            name: name.into(),
            queue: queue.into(),
            task: T::NAME,
            draft: Arc::new(move |due, principal| Draft::new(&task(due), principal)),
            expression: expression.into(),
            cron: Arc::new(cron),
            zone_name: "UTC".into(),
            zone: TimeZone::UTC,
            missed: Missed::default(),
            overlap: false,
            principal: None,
            start_within: Duration::from_secs(24 * 60 * 60),
        })
    }

    /// Sets the time zone, by its name in the IANA database, such as `Europe/Berlin`. By default UTC.
    ///
    /// The rules of the zone come from the database of the operating system, and from a copy in this program where the
    /// system has none.
    ///
    /// # Errors
    ///
    /// [`InvalidSchedule`] if the zone is unknown.
    pub fn time_zone(mut self, name: &str) -> Result<Self, InvalidSchedule> {
        let zone = TimeZone::get(name);
        self.zone = zone.map_err(|error| InvalidSchedule::new("time zone", name, error))?;
        self.zone_name = name.into();
        Ok(self)
    }

    /// Sets what happens to due times that passed while no process kept the schedule, by default
    /// [`Missed::RunOnce`]. A due time is missed if no process has noticed it within a minute.
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// Sets whether a run may start while an earlier run of this schedule has not ended, by default no: the due time is
    /// then skipped, with an event in the log.
    pub fn overlap(mut self, overlap: bool) -> Self {
        self.overlap = overlap;
        self
    }

    /// Sets the principal that the runs act for, by default none.
    pub fn principal(mut self, principal: Principal) -> Self {
        self.principal = Some(principal);
        self
    }

    /// Sets how long a run may wait for a worker, by default one day, and at most the
    /// [lifetime](super::TasksBuilder::lifetime) of tasks. A run that reaches a worker later fails without being
    /// started. The record of a run is kept at least for this time, so that the due time cannot run again.
    pub fn start_within(mut self, time: Duration) -> Self {
        self.start_within = time;
        self
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the name of the queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Returns the cron expression.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Returns the name of the time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// Returns the first due time after a time. `None` if there is none within some thousand years.
    #[must_use]
    pub fn next_after(&self, after: SystemTime) -> Option<SystemTime> {
        let after = after.duration_since(SystemTime::UNIX_EPOCH);
        self.next(milliseconds(after.unwrap_or_default())).map(time)
    }

    /// The times of the schedule as text. A schedule with other times has another text.
    pub(super) fn times(&self) -> String {
        format!("{} {}", self.expression, self.zone_name)
    }

    /// Returns the first due time after a time, both in milliseconds since the epoch.
    pub(super) fn next(&self, after: u64) -> Option<u64> {
        // Due times are whole seconds.
        let second = i64::try_from(after / 1000).ok()?;
        let start = Timestamp::from_second(second).ok()?;
        let start = start.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&start, false).ok()?;
        let next = u64::try_from(next.timestamp().as_millisecond()).ok()?;
        (next > after).then_some(next)
    }

    /// Returns the latest due time after `after` and until `until`. The search starts close to the end, so that its
    /// effort does not grow with the number of due times in between.
    pub(super) fn latest(&self, after: u64, until: u64) -> Option<u64> {
        let due = |start: u64| self.next(start).filter(|due| *due <= until);
        let starts = PERIODS
            .iter()
            .map(|period| until.saturating_sub(*period).max(after));
        let mut latest = starts.chain([after]).find_map(due)?;
        while let Some(later) = due(latest) {
            latest = later;
        }
        Some(latest)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .field("task", &self.task)
            .field("expression", &self.expression)
            .field("zone", &self.zone_name)
            .field("missed", &self.missed)
            .field("overlap", &self.overlap)
            .field("principal", &self.principal)
            .field("start_within", &self.start_within)
            .finish_non_exhaustive()
    }
}

/// Error of a [`Schedule`] with a cron expression or a time zone that is not understood.
#[derive(Clone, Debug)]
pub struct InvalidSchedule {
    what: &'static str,
    text: String,
    error: Arc<dyn Error + Send + Sync>,
}

impl InvalidSchedule {
    fn new(what: &'static str, text: &str, error: impl Error + Send + Sync + 'static) -> Self {
        Self {
            what,
            text: text.to_owned(),
            error: Arc::new(error),
        }
    }
}

impl fmt::Display for InvalidSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}: {:?}", self.what, self.text)
    }
}

impl Error for InvalidSchedule {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error)
    }
}
