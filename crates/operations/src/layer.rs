use super::builder::OperationLayerBuilder;
use super::core::Core;
use super::mount::OperationRoutes;
use super::operations::Operations;
use super::service::OperationService;
use tower_promises_backend::Backend;
use std::fmt;
use std::sync::Arc;
use tower_layer::Layer;

/// Layer that applies the [`OperationService`] middleware.
///
/// Clones stand for the same operations and share their limits. See the [module docs](crate::operation) for an
/// example.
#[derive(Clone)]
#[must_use]
pub struct OperationLayer {
    core: Arc<Core>,
}

impl OperationLayer {
    /// A layer that keeps operations in this backend, with the default settings.
    pub fn new(backend: Backend) -> Self {
        Self::builder(backend).build()
    }

    /// A layer that keeps operations in this process, with the default settings.
    pub fn memory() -> Self {
        Self::new(Backend::memory())
    }

    /// Builds a layer that keeps operations in this backend and has other settings.
    pub fn builder(backend: Backend) -> OperationLayerBuilder {
        OperationLayerBuilder::new(backend)
    }

    /// A service that answers requests for operations, to be mounted in a router that has the layer on some of its
    /// routes only: with `Router::route_layer` or on a method router of axum, the layer never sees such requests.
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
        OperationRoutes::of(self.core.clone())
    }

    pub(super) fn of(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// A handle to the operations, for code that is not a handler.
    #[must_use]
    pub fn operations(&self) -> Operations {
        Operations::of(self.core.clone())
    }
}

impl<S> Layer<S> for OperationLayer {
    type Service = OperationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OperationService::with_core(inner, self.core.clone())
    }
}

impl fmt::Debug for OperationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationLayer")
            .field("settings", &self.core.settings)
            .finish()
    }
}
