use super::body::TasksPageBody;
use super::future::TasksPageFuture;
use super::routes;
use super::settings::Settings;
use super::source::Source;
use crate::{Principal, Tasks};
use http::{Request, Response, request};
use http_body::Body;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower_promises_backend::BoxError;
use tower_service::Service;

/// Service with a page for operators: queues, tasks, dead letters, schedules and limits, with buttons that send dead
/// letters again, discard them and cancel tasks.
///
/// ```
/// use axum::Router;
/// use tower_promises_backend::Backend;
/// use tower_promises_tasks::{Principal, Tasks, TasksPage};
///
/// /// The user, as set by the authentication.
/// #[derive(Clone)]
/// struct User {
///     id: String,
///     is_operator: bool,
/// }
///
/// let tasks = Tasks::builder(Backend::memory()).build();
/// let page = TasksPage::new(tasks, |request| {
///     let user: &User = request.extensions.get()?;
///     user.is_operator.then(|| Principal::new(user.id.as_str()))
/// });
/// let app: Router = Router::new().route_service("/tasks", page);
/// # let _ = app;
/// ```
///
/// The path does not matter, because all links are relative. The page needs no scripts. It is in English.
///
/// [`guide`](crate::guide#the-page-of-tasks) explains what the numbers mean and what a view costs.
///
/// # Security
///
/// A principal that the page admits sees all tasks of all principals: their ids, types, principals, progress messages
/// and the texts of their errors, without the sources of these errors. It can change all tasks. Arguments and outputs
/// are shown only as [`show_arguments`](Self::show_arguments) and [`show_output`](Self::show_output)
/// say.
///
/// A form is accepted if its request is not from another site, as `Sec-Fetch-Site` and `Origin` tell, and if it has the
/// token that the page gave to the same principal for the same task. The secret of the tokens is in the store, so any
/// process answers the form of another one. It changes every 90 days, and pages that are open then must be opened again.
/// Pages are not stored by caches, are not shown in frames, and instruct browsers to send no `Referer`. The log names
/// the principal of each change.
///
/// # Cancel safety
///
/// If the response future is dropped, a change may or may not have been made.
///
/// # Panics
///
/// A panic in a function of the application is a panic of the response future.
#[derive(Clone)]
pub struct TasksPage {
    source: Source,
}

impl TasksPage {
    /// Creates the page. The function returns the principal of a request that may see and change all tasks, as
    /// established by the authentication. It returns `None` for all other requests, which get a 404. A header that any
    /// client can send is not a principal.
    #[must_use]
    pub fn new(
        tasks: Tasks,
        admit: impl Fn(&request::Parts) -> Option<Principal> + Send + Sync + 'static,
    ) -> Self {
        Self {
            source: Source {
                tasks,
                settings: Arc::new(Settings::new(Arc::new(admit))),
                snapshots: Arc::default(),
            },
        }
    }

    /// Changes the settings of this clone.
    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.source.settings));
        self.source.snapshots = Arc::default();
        self
    }

    /// Sets the function that shows the arguments of a task. It is called with the name of the task's type and with the
    /// arguments as JSON, and returns a plain text, or `None` to show nothing. By default no arguments are shown.
    ///
    /// Only the arguments of dead letters, and of waiting tasks with a policy of [`Unique`](crate::Unique), are in the
    /// store. Those of other tasks are not shown, because they are in the queue.
    ///
    /// ```
    /// use tower_promises_tasks::TasksPage;
    ///
    /// # fn example(page: TasksPage) -> TasksPage {
    /// page.show_arguments(|task, json| match task {
    ///     "render" => Some(json.to_owned()),
    ///     // May contain addresses.
    ///     _ => None,
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn show_arguments(
        self,
        show: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.show_arguments = Some(Arc::new(show)))
    }

    /// Sets the function that shows the output of a task, like [`show_arguments`](Self::show_arguments). By default no
    /// outputs are shown.
    #[must_use]
    pub fn show_output(
        self,
        show: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.show_output = Some(Arc::new(show)))
    }

    /// Sets the title of the page, by default `Tasks`.
    #[must_use]
    pub fn title(self, title: impl Into<Arc<str>>) -> Self {
        self.with(|settings| settings.title = title.into())
    }

    /// Sets the origin of the application as browsers see it, such as `https://example.com`. By default the origin of a
    /// form is compared with the host of its request only, which is another one behind a proxy that changes it.
    #[must_use]
    pub fn public_origin(self, origin: &str) -> Self {
        self.with(|settings| settings.origin = origin.trim_end_matches('/').into())
    }

    /// Sets the number of rows of a list, by default 25. The value is clamped to 1 to 200.
    #[must_use]
    pub fn page_size(self, rows: usize) -> Self {
        self.with(|settings| settings.page_size = rows.clamp(1, 200))
    }

    /// Sets the number of stored tasks that are read to count them, by default 10,000. If more are stored, the page says
    /// that its numbers are lower bounds. Counting also ends after two seconds.
    #[must_use]
    pub fn max_counted(self, tasks: usize) -> Self {
        self.with(|settings| settings.max_counted = tasks)
    }

    /// Sets how long counted numbers are shown before a view counts again, by default 5 seconds. All views of a process
    /// share the numbers.
    #[must_use]
    pub fn count_interval(self, interval: Duration) -> Self {
        self.with(|settings| settings.count_interval = interval)
    }
}

impl fmt::Debug for TasksPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TasksPage")
            .field("tasks", &self.source.tasks)
            .field("settings", &self.source.settings)
            .finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for TasksPage
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<TasksPageBody>;
    type Error = Infallible;
    type Future = TasksPageFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let source = self.source.clone();
        TasksPageFuture {
            answer: Box::pin(async move { routes::answer(&source, &parts, body).await }),
        }
    }
}
