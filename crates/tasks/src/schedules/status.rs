use super::plan::{Plan, Run, key};
use crate::schedule::Schedule;
use crate::tasks::{Core, Tasks};
use crate::{TaskError, TaskId};
use std::sync::Arc;
use std::time::SystemTime;
use tower_promises_backend::kit::clock::time;

/// A snapshot of a schedule, returned by [`Tasks::schedules`].
#[derive(Clone, Debug)]
pub struct ScheduleStatus {
    schedule: Arc<Schedule>,
    next: Option<SystemTime>,
    last: Option<Run>,
}

impl ScheduleStatus {
    /// Returns the definition of the schedule in this process.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Returns the next due time, `None` if there is none.
    #[must_use]
    pub fn next_due(&self) -> Option<SystemTime> {
        self.next
    }

    /// Returns the id of the task of the latest run. Its [status](Tasks::status) may have expired.
    #[must_use]
    pub fn last_run(&self) -> Option<&TaskId> {
        self.last.as_ref().map(|last| &last.id)
    }

    /// Returns the due time of the latest run.
    #[must_use]
    pub fn last_due(&self) -> Option<SystemTime> {
        self.last.as_ref().map(|last| time(last.due))
    }
}

impl Tasks {
    /// Returns the schedules of this process, in the order of their names, with their state in all processes.
    ///
    /// # Errors
    ///
    /// [`TaskError::Backend`], and [`TaskError::NoRuntime`] outside of a tokio runtime.
    pub async fn schedules(&self) -> Result<Vec<ScheduleStatus>, TaskError> {
        Core::runtime()?;
        let now = (self.core.clock)();
        let mut schedules: Vec<_> = self.core.schedules.values().cloned().collect();
        schedules.sort_by(|a, b| a.name.cmp(&b.name));
        let mut statuses = Vec::with_capacity(schedules.len());
        for schedule in schedules {
            let plan: Option<Plan> = self.core.records.backend.read(&key(&schedule.name)).await?;
            statuses.push(ScheduleStatus {
                next: schedule.next_after(now),
                schedule,
                last: plan.and_then(|plan| plan.last),
            });
        }
        Ok(statuses)
    }
}
