//! Schedules at work: the plan in the store, and the tasks of a worker that keep it.

mod keeper;
mod plan;
mod status;

pub(super) use keeper::keep;
pub use status::ScheduleStatus;
