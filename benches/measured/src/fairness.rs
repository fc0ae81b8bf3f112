//! A promise that uses up the cooperative budget in every poll must not starve its neighbours.
//!
//! These requests run in a runtime of tokio, because only its tasks have a budget.

use crate::stacks::{COUNTS, Case, head, names};
use http::{Request, Response};
use http_body_util::Full;
use std::future::{poll_fn, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::coop::{consume_budget, has_budget_remaining};
use tower::{Service, ServiceBuilder, service_fn};
use tower_promises::{BoxError, PromiseLayer, Promises};

/// Ends a request in which the neighbours starve.
const MAX_POLLS: usize = 10_000;

/// One request of each number of promises.
pub fn cases() -> Vec<Case> {
    let cases = COUNTS[1..].iter().map(|&count| Case {
        id: format!("fair/{count}/layer"),
        client: Box::new(client(count, Arc::default())),
        request: head,
        requests: (1000 / count).clamp(2, 100),
    });
    cases.collect()
}

pub fn print() {
    for &count in &COUNTS[1..] {
        let polls = Arc::default();
        client(count, Arc::clone(&polls))(head());
        println!("fair/{count}\t{}", polls.load(Ordering::Relaxed));
    }
}

/// Uses up the budget in every poll until no neighbour is left, and counts the polls.
async fn greedy(neighbours: Arc<AtomicUsize>, polls: Arc<AtomicUsize>) {
    polls.store(1, Ordering::Relaxed);
    while neighbours.load(Ordering::Relaxed) > 0 && polls.load(Ordering::Relaxed) < MAX_POLLS {
        while has_budget_remaining() {
            consume_budget().await;
        }
        // Without budget it continues in the next poll.
        consume_budget().await;
        polls.fetch_add(1, Ordering::Relaxed);
    }
}

async fn modest(neighbours: Arc<AtomicUsize>) {
    consume_budget().await;
    neighbours.fetch_sub(1, Ordering::Relaxed);
}

fn client(count: usize, polls: Arc<AtomicUsize>) -> impl FnMut(Request<Full<bytes::Bytes>>) {
    let handle = move |request: Request<_>| {
        let promises = request.extensions().get::<Promises>();
        let promises = promises.expect("`PromiseLayer` is around");
        if promises.pass() == 1 {
            let neighbours = Arc::new(AtomicUsize::new(count - 1));
            let (first, others) = names(count).split_first().expect("there are promises");
            let greedy = greedy(Arc::clone(&neighbours), Arc::clone(&polls));
            promises.submit(*first, greedy).expect("it is the first");
            for &name in others {
                let modest = modest(Arc::clone(&neighbours));
                promises.submit(name, modest).expect("the name is new");
            }
        }
        ready(Ok::<_, BoxError>(Response::<Full<bytes::Bytes>>::default()))
    };
    let mut service = ServiceBuilder::new()
        .layer(PromiseLayer::new().max_promises(count))
        .service(service_fn(handle));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers needs no resources");
    move |request| {
        let response = runtime.block_on(async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        });
        drop(std::hint::black_box(response.expect("no service fails")));
    }
}
