use super::scope::{self, Caller, Scope, Scoped};
use super::{Principal, Tasks, TraceContext};
use http::{Request, request};
use pin_project_lite::pin_project;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

type Find<T> = dyn Fn(&request::Parts) -> Option<T> + Send + Sync;

/// Layer that adds [`Tasks`] to requests. Tasks that a request submits get its principal and its trace context.
///
/// Place it outside of `PromiseLayer` and inside of the authentication.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_promises::PromiseLayer;
/// use tower_promises_backend::Backend;
/// use tower_promises_tasks::{Principal, TaskLayer, Tasks};
///
/// /// The user, as set by the authentication.
/// #[derive(Clone)]
/// struct User(String);
///
/// async fn principal(tasks: Tasks) -> String {
///     tasks.principal().map_or("no principal".into(), |principal| principal.to_string())
/// }
///
/// let tasks = Tasks::builder(Backend::memory()).build();
/// let layer = TaskLayer::new(tasks)
///     .principal(|request| request.extensions.get().map(|User(id)| Principal::new(id.as_str())));
/// let app: Router = Router::new().route("/", get(principal)).layer(PromiseLayer::new()).layer(layer);
/// # let _ = app;
/// ```
#[derive(Clone)]
#[must_use]
pub struct TaskLayer {
    tasks: Tasks,
    principal: Arc<Find<Principal>>,
    trace: Arc<Find<TraceContext>>,
}

impl TaskLayer {
    /// Creates a layer without principals. Trace contexts are read from the header `traceparent`.
    pub fn new(tasks: Tasks) -> Self {
        Self {
            tasks,
            principal: Arc::new(|_| None),
            trace: Arc::new(|request| TraceContext::from_headers(&request.headers)),
        }
    }

    /// Sets the function that returns the principal of a request, as established by the authentication. By default,
    /// requests have no principal. A header that any client can send is not a principal.
    pub fn principal(
        mut self,
        principal: impl Fn(&request::Parts) -> Option<Principal> + Send + Sync + 'static,
    ) -> Self {
        self.principal = Arc::new(principal);
        self
    }

    /// Sets the function that returns the trace context of a request. By default, the trace context is read from the
    /// request headers.
    ///
    /// A server with spans of its own returns the context of the current span, so that tasks become children of the
    /// request and not siblings. A server that does not trust its clients ignores their headers.
    pub fn trace(
        mut self,
        trace: impl Fn(&request::Parts) -> Option<TraceContext> + Send + Sync + 'static,
    ) -> Self {
        self.trace = Arc::new(trace);
        self
    }
}

impl fmt::Debug for TaskLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskLayer")
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TaskLayer {
    type Service = WithTasks<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithTasks {
            inner,
            layer: self.clone(),
        }
    }
}

/// Middleware that gives [`Tasks`] to requests. See [`TaskLayer`].
#[derive(Clone, Debug)]
pub struct WithTasks<S> {
    inner: S,
    layer: TaskLayer,
}

impl<S> WithTasks<S> {
    /// Gets a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Gets a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Consumes `self` and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for WithTasks<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = WithTasksFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let caller = Caller {
            principal: (self.layer.principal)(&parts),
            trace: (self.layer.trace)(&parts),
        };
        parts
            .extensions
            .insert(self.layer.tasks.bound(caller.clone()));
        let scope = Arc::new(Scope {
            caller,
            // A task that calls a service of its own process stays in its task scope.
            task: scope::current().task.clone(),
        });
        let request = Request::from_parts(parts, body);
        let future = scope::enter(&scope, || self.inner.call(request));
        WithTasksFuture {
            future: Scoped::new(scope, future),
        }
    }
}

pin_project! {
    /// Response future for [`WithTasks`].
    #[derive(Debug)]
    pub struct WithTasksFuture<F> {
        #[pin]
        future: Scoped<F>,
    }
}

impl<F: Future> Future for WithTasksFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().future.poll(cx)
    }
}
