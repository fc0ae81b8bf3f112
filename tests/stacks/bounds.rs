//! The auto traits and `Clone` of public types.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Ready;
use std::marker::PhantomPinned;
use std::rc::Rc;
use std::task::{Context, Poll};
use tower::{Layer, Service};
use tower_promises::body::{ReplayBody, ReplayError, Spool};
use tower_promises::operations::{
    OperationFuture, OperationLayer, OperationService, Operations, Progress,
};
use tower_promises::promise::{DefaultResponseForRejection, PromiseFuture, PromiseService};
use tower_promises::promise::{Key, PromiseKey, PromiseResults, Rejection, SubmitError};
use tower_promises::{PromiseError, PromiseLayer, Promises};

assert_impl_all!(Promises: Send, Sync, Clone, Unpin);
assert_impl_all!(PromiseLayer: Send, Sync, Clone, Unpin);
assert_impl_all!(PromiseResults: Send, Sync);
assert_impl_all!(Key: Send, Sync, Clone, Unpin, Ord, std::hash::Hash);
// For every type of value.
assert_impl_all!(PromiseKey<Rc<Cell<u8>>>: Send, Sync, Clone, Unpin);
assert_impl_all!(PromiseError: Send, Sync, Clone, std::error::Error);
assert_impl_all!(SubmitError: Send, Sync, Clone, std::error::Error);
assert_impl_all!(Rejection: Send, Sync, Clone, std::error::Error);
assert_impl_all!(Spool: Send, Sync, Clone, Unpin);
assert_impl_all!(OperationLayer: Send, Sync, Clone, Unpin);
assert_impl_all!(OperationFuture<Full<Bytes>, Infallible>: Send, Unpin);
assert_impl_all!(OperationService<()>: Send, Sync, Clone);
assert_impl_all!(Operations: Send, Sync, Clone, Unpin);
assert_impl_all!(Progress: Send, Sync, Clone, Unpin);
assert_impl_all!(ReplayError: Send, Sync, Clone, std::error::Error);

struct NotSync(#[allow(dead_code)] Cell<u8>);
struct NotUnpin(#[allow(dead_code)] PhantomPinned);

assert_impl_all!(ReplayBody<NotSync>: Send, Sync, Unpin);
assert_impl_all!(ReplayBody<NotUnpin>: Send, Sync, Unpin);
assert_not_impl_any!(ReplayBody<Rc<u8>>: Send, Sync);

/// A service whose auto traits are those of `M`.
#[derive(Clone)]
struct Marked<M>(M);

impl<M, B> Service<Request<ReplayBody<B>>> for Marked<M> {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<ReplayBody<B>>) -> Self::Future {
        std::future::ready(Ok(Response::default()))
    }
}

type FutureOf<M> = PromiseFuture<Marked<M>, Empty<Bytes>, DefaultResponseForRejection>;

assert_impl_all!(PromiseService<Marked<()>>: Send, Sync, Clone);
assert_impl_all!(PromiseService<Marked<Cell<u8>>>: Send, Clone);
assert_not_impl_any!(PromiseService<Marked<Cell<u8>>>: Sync);
assert_impl_all!(FutureOf<()>: Send);
assert_impl_all!(FutureOf<Cell<u8>>: Send);
assert_not_impl_any!(FutureOf<Rc<u8>>: Send);

#[tokio::test]
async fn a_service_that_is_not_send_works() {
    let service = PromiseLayer::new().layer(Marked(Rc::new(7)));
    let response = tower::ServiceExt::oneshot(service, Request::new(Empty::<Bytes>::new()));
    assert!(response.await.is_ok());
}
