use super::builder::OperationLayerBuilder;
use super::instance::Instance;
use super::operations::Operations;
use super::service::{OperationRoutes, OperationService};
use std::fmt;
use std::sync::Arc;
use tower_layer::Layer;
use tower_promises_backend::Backend;

/// Layer that applies the [`OperationService`] middleware.
///
/// Clones share their operations and limits. See the [crate docs](crate) for an example.
#[derive(Clone)]
#[must_use]
pub struct OperationLayer {
    instance: Arc<Instance>,
}

impl OperationLayer {
    /// Creates a layer that stores operations in this backend, with the default settings.
    pub fn new(backend: Backend) -> Self {
        Self::builder(backend).build()
    }

    /// Creates a layer that stores operations in this process, with the default settings.
    pub fn memory() -> Self {
        Self::new(Backend::memory())
    }

    /// Creates a builder for a layer that stores operations in this backend.
    pub fn builder(backend: Backend) -> OperationLayerBuilder {
        OperationLayerBuilder::new(backend)
    }

    /// Returns a service that answers requests for operations. Mount it in a router that has the layer only on some of
    /// its routes: with `Router::route_layer`, or on a method router of axum, the layer never sees such requests.
    ///
    /// ```
    /// use axum::{Router, routing::post};
    /// use tower_promises_operations::OperationLayer;
    ///
    /// let operations = OperationLayer::memory();
    /// let app: Router = Router::new()
    ///     .route("/import", post(async || "imported"))
    ///     .route_layer(operations.clone())
    ///     .route_service("/.operations/{*rest}", operations.routes());
    /// # let _ = app;
    /// ```
    #[must_use]
    pub fn routes(&self) -> OperationRoutes {
        OperationRoutes::of(self.instance.clone())
    }

    pub(super) fn of(instance: Arc<Instance>) -> Self {
        Self { instance }
    }

    /// Returns a handle to the operations, for code outside of handlers.
    #[must_use]
    pub fn operations(&self) -> Operations {
        Operations::of(self.instance.clone())
    }
}

impl<S> Layer<S> for OperationLayer {
    type Service = OperationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OperationService::with_instance(inner, self.instance.clone())
    }
}

impl fmt::Debug for OperationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationLayer")
            .field("settings", &self.instance.settings)
            .finish()
    }
}
