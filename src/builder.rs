use crate::PromiseLayer;
#[cfg(feature = "fragments")]
use crate::fragment::FragmentLayer;
use tower::ServiceBuilder;
use tower::layer::util::Stack;

mod sealed {
    pub trait Sealed {}

    impl<L> Sealed for tower::ServiceBuilder<L> {}
}

/// Extension trait that adds the middleware of this crate to [`tower::ServiceBuilder`].
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::ServiceBuilder;
/// use tower_promises::body::ReplayBody;
/// use tower_promises::{BoxError, ServiceBuilderExt};
///
/// async fn handle(_: Request<ReplayBody<Full<Bytes>>>) -> Result<Response<Full<Bytes>>, BoxError> {
///     Ok(Response::default())
/// }
///
/// let service = ServiceBuilder::new().promises().service_fn(handle);
/// # let _ = tower::ServiceExt::oneshot(service, Request::new(Full::<Bytes>::default()));
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// Adds [`PromiseLayer`] with the default settings.
    ///
    /// For other settings, pass a [`PromiseLayer`] to [`ServiceBuilder::layer`].
    fn promises(self) -> ServiceBuilder<Stack<PromiseLayer, L>>;

    /// Adds [`FragmentLayer`] with the default settings.
    ///
    /// For other settings, pass a [`FragmentLayer`] to [`ServiceBuilder::layer`].
    #[cfg(feature = "fragments")]
    fn fragments(self) -> ServiceBuilder<Stack<FragmentLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    fn promises(self) -> ServiceBuilder<Stack<PromiseLayer, L>> {
        self.layer(PromiseLayer::new())
    }

    #[cfg(feature = "fragments")]
    fn fragments(self) -> ServiceBuilder<Stack<FragmentLayer, L>> {
        self.layer(FragmentLayer::new())
    }
}
