use super::settings::Settings;
use super::snapshot::Snapshots;
use crate::Tasks;
use std::sync::Arc;

/// What views are made from.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) tasks: Tasks,
    pub(super) settings: Arc<Settings>,
    pub(super) snapshots: Arc<Snapshots>,
}
