//! Tasks: rules, results, workers, dead letters.
#![allow(clippy::unwrap_used)]

mod backend;
mod backends;
mod bus;
mod crashes;
mod dead_letters;
mod deaths;
mod ends;
mod limits;
mod lists;
mod metrics;
mod operations;
mod page;
mod requests;
mod results;
mod retries;
mod rules;
mod schedules;
mod slots;
mod transactions;
mod unique;
mod webhooks;
mod within;
mod workers;
