use crate::Principal;
use http::request;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Function that returns the principal of a request that may see and change all tasks.
pub(super) type Admit = dyn Fn(&request::Parts) -> Option<Principal> + Send + Sync;

/// Function that turns the JSON of a task type into a text.
pub(super) type Show = dyn Fn(&str, &str) -> Option<String> + Send + Sync;

/// The settings, whose defaults [`TasksPage`](super::TasksPage) documents.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) admit: Arc<Admit>,
    pub(super) show_arguments: Option<Arc<Show>>,
    pub(super) show_output: Option<Arc<Show>>,
    pub(super) title: Arc<str>,
    pub(super) origin: Arc<str>,
    pub(super) page_size: usize,
    pub(super) max_counted: usize,
    pub(super) count_interval: Duration,
}

impl Settings {
    pub(super) fn new(admit: Arc<Admit>) -> Self {
        Self {
            admit,
            show_arguments: None,
            show_output: None,
            title: "Tasks".into(),
            origin: "".into(),
            page_size: 25,
            max_counted: 10_000,
            count_interval: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("title", &self.title)
            .field("origin", &self.origin)
            .field("page_size", &self.page_size)
            .field("max_counted", &self.max_counted)
            .field("count_interval", &self.count_interval)
            .finish_non_exhaustive()
    }
}
