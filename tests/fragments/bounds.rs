//! The auto traits of public types.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::convert::Infallible;
use std::future::Ready;
use std::marker::PhantomPinned;
use std::rc::Rc;
use tower::util::ServiceFn;
use tower_promises::body::ReplayBody;
use tower_promises::fragment::{
    Fragment, FragmentBody, FragmentError, FragmentFuture, FragmentLayer, FragmentService,
};
use tower_promises::promise::DefaultResponseForRejection;

type Body = Full<Bytes>;
type Inner = ServiceFn<fn(Request<ReplayBody<Body>>) -> Ready<Result<Response<Body>, Infallible>>>;

assert_impl_all!(FragmentLayer: Send, Sync, Clone, Unpin, Default, std::fmt::Debug);
assert_impl_all!(FragmentService<Inner>: Send, Sync, Clone, Unpin, std::fmt::Debug);
assert_impl_all!(Fragment: Send, Sync, Clone, Unpin, std::fmt::Debug, std::fmt::Display);
assert_impl_all!(FragmentError: Send, Sync, std::error::Error);
assert_impl_all!(FragmentFuture<Inner, Body, Body, DefaultResponseForRejection>: Send);

assert_impl_all!(FragmentBody<Body>: Send, Unpin);
assert_not_impl_any!(FragmentBody<Rc<u8>>: Send);
assert_not_impl_any!(FragmentBody<PhantomPinned>: Unpin);
