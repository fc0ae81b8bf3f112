//! Measurements that need an allocator that counts.

use crate::bodies;
use crate::stacks::{self, Case, measured};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use http_body_util::Full;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::future::pending;
use std::task::{Context, Waker};
use tower::{Layer, Service, service_fn};
use tower_promises::{BoxError, PromiseLayer, Promises};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

pub fn allocations(mut case: Case) {
    case.warm_up();
    let mut count = 0;
    for _ in 0..case.requests {
        let request = (case.request)();
        let region = Region::new(ALLOCATOR);
        measured(&mut case.client, request);
        let change = region.change();
        count += change.allocations + change.reallocations;
    }
    println!("{}\t{}", case.id, count as f64 / case.requests as f64);
}

pub fn bytes() {
    let memory = Bytes::from(vec![7; 64 << 20]);
    bodies::read_with_layer(&memory);
    let region = Region::new(ALLOCATOR);
    bodies::read_with_layer(&memory);
    println!("replay\t{}", region.change().bytes_allocated);

    // A service without the layer that waits for the same future.
    let mut bare = service_fn(|request: http::Request<Full<Bytes>>| async move {
        drop(request);
        pending::<u64>().await;
        Ok::<_, BoxError>(Response::<Full<Bytes>>::default())
    });
    in_flight("flight/bare", || {
        waiting(Box::pin(bare.call(stacks::head())))
    });

    in_flight("flight/head", || Box::new(stacks::head().into_parts().0));

    let handler = service_fn(|request: http::Request<_>| async move {
        let promises = request.extensions().get::<Promises>();
        let promises = promises.expect("`PromiseLayer` is around");
        promises.result_or_submit("value", pending::<u64>)?;
        Ok::<_, BoxError>(Response::<Full<Bytes>>::default())
    });
    let mut layer = PromiseLayer::new().layer(handler);
    in_flight("flight/layer", || {
        waiting(Box::pin(layer.call(stacks::head())))
    });
}

type Waiting = BoxFuture<'static, Result<Response<Full<Bytes>>, BoxError>>;

fn waiting(mut future: Waiting) -> Waiting {
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    future
}

/// Prints the average number of bytes that a value holds.
fn in_flight<T>(name: &str, make: impl FnMut() -> T) {
    const COUNT: usize = 10_000;

    let mut things = Vec::with_capacity(COUNT);
    let region = Region::new(ALLOCATOR);
    things.extend(std::iter::repeat_with(make).take(COUNT));
    let change = region.change();
    let held = change.bytes_allocated - change.bytes_deallocated;
    println!("{name}\t{}", held as f64 / COUNT as f64);
}
