//! Attempts of a worker at tasks.

mod attempts;
mod claim;
mod end;
mod turn;
mod watch;

pub(super) use attempts::Attempts;
