//! Futures that are always ready do not starve other futures of the task's cooperative budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use test_support::{Counter, ask, ask_async};
use tokio::sync::mpsc;
use tokio::task::consume_budget;
use tower_promises::promise::Start;
use tower_promises::{PromiseError, PromiseLayer, Promises};

/// The largest number of polls of the task until a neighbour is done. Tokio's budget allows 128 steps in each poll.
const MOST_POLLS: usize = 100;
const BUDGET: usize = 128;

/// The number of neighbours that are not done.
#[derive(Clone, Default)]
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Creates a neighbour. It is done after receiving a message that is available from the start.
    fn neighbour(&self) -> impl Future<Output = u8> + Send + use<> {
        let (sender, mut receiver) = mpsc::channel(1);
        sender.try_send(7).unwrap();
        self.0.fetch_add(1, Ordering::SeqCst);
        let waiting = self.0.clone();
        async move {
            let value = receiver.recv().await;
            waiting.fetch_sub(1, Ordering::SeqCst);
            value.unwrap()
        }
    }

    /// Uses up the budget of the task in each poll until the neighbours are done.
    async fn greedy(self) -> &'static str {
        for _ in 0..MOST_POLLS * BUDGET {
            if self.0.load(Ordering::SeqCst) == 0 {
                return "fair";
            }
            consume_budget().await;
        }
        "starved"
    }
}

/// Requests a greedy promise, with the given numbers of neighbours before and after it.
async fn greedy_among(layer: PromiseLayer, before: usize, after: usize) -> String {
    let waiting = Waiting::default();
    let answer = ask(layer, |promises| {
        let ask_for = |number| {
            let neighbour = || waiting.neighbour();
            promises.result_or_submit(format!("neighbour {number}"), neighbour)
        };
        let mut neighbours: Vec<_> = (0..before).map(ask_for).collect();
        let greedy = promises.result_or_submit("greedy", || waiting.clone().greedy());
        neighbours.extend((before..before + after).map(ask_for));
        for neighbour in neighbours {
            neighbour?;
        }
        Ok(greedy?.to_owned())
    });
    answer.await.unwrap().body
}

#[tokio::test]
async fn promises_beside_a_promise_that_is_always_ready() {
    for (before, after) in [(0, 1), (1, 0), (1, 1), (0, 31), (16, 15)] {
        let body = greedy_among(PromiseLayer::new(), before, after).await;
        assert_eq!(body, "fair", "{before} before, {after} after");
    }
}

/// Promises that start together share wakers in groups. Each group gets its turn.
#[tokio::test]
async fn hundreds_of_promises_beside_a_promise_that_is_always_ready() {
    for (before, after) in [(0, 32), (0, 60), (32, 31), (90, 1), (100, 200), (0, 500)] {
        let body = greedy_among(PromiseLayer::new(), before, after).await;
        assert_eq!(body, "fair", "{before} before, {after} after");
    }
}

/// Takes a number of steps, as many in each poll as the budget allows. Returns the number of steps that the other
/// future has taken by then.
async fn steps_of_another(own: Counter, other: Counter) -> usize {
    for _ in 0..STEPS {
        own.add();
        consume_budget().await;
    }
    other.get()
}

const STEPS: usize = 20 * BUDGET;

#[tokio::test]
async fn two_promises_that_are_always_ready_share_the_budget() {
    for size in [2, 34, 70] {
        let steps = [Counter::default(), Counter::default()];
        let answer = ask(PromiseLayer::new(), |promises| {
            let greedy = |number: usize| {
                let work = || steps_of_another(steps[number].clone(), steps[1 - number].clone());
                promises.result_or_submit(format!("greedy {number}"), work)
            };
            let first = greedy(0);
            // With enough promises in between, the two are in different groups.
            let between: Result<Vec<()>, PromiseError> = (2..size)
                .map(|number| promises.result_or_submit(format!("{number}"), async || ()))
                .collect();
            let second = greedy(1);
            between?;
            let least = first?.min(second?);
            assert!(least > STEPS / 4, "{least} beside {STEPS}, of {size}");
            Ok(String::new())
        });
        answer.await.unwrap();
    }
}

#[tokio::test]
async fn an_eager_promise_beside_a_handler_that_is_always_ready() {
    for eager in [1, 40] {
        let layer = PromiseLayer::new().start(Start::Eager);
        let waiting = Waiting::default();
        let answer = ask_async(layer, async |promises: Promises| {
            for number in 0..eager {
                let neighbour = || waiting.neighbour();
                let _ = promises.result_or_submit(format!("neighbour {number}"), neighbour);
            }
            Ok(waiting.clone().greedy().await.to_owned())
        });
        assert_eq!(answer.await.unwrap().body, "fair", "beside {eager}");
    }
}

#[tokio::test]
async fn a_handler_beside_an_eager_promise_that_is_always_ready() {
    let layer = PromiseLayer::new().start(Start::Eager);
    let waiting = Waiting::default();
    let answer = ask_async(layer, async |promises: Promises| {
        let greedy = promises.result_or_submit("greedy", || waiting.clone().greedy());
        if promises.pass() == 1 {
            // The promise starts when the handler first yields.
            tokio::task::yield_now().await;
            waiting.neighbour().await;
        }
        Ok(greedy?.to_owned())
    });
    assert_eq!(answer.await.unwrap().body, "fair");
}

#[tokio::test]
async fn a_handler_and_an_eager_promise_that_are_both_always_ready() {
    let layer = PromiseLayer::new().start(Start::Eager);
    let steps = [Counter::default(), Counter::default()];
    let answer = ask_async(layer, async |promises: Promises| {
        let work = || steps_of_another(steps[1].clone(), steps[0].clone());
        let promise = promises.result_or_submit("greedy", work);
        if promises.pass() == 1 {
            let of_promise = steps_of_another(steps[0].clone(), steps[1].clone()).await;
            assert!(of_promise > STEPS / 4, "{of_promise} beside {STEPS}");
        }
        let of_handler = promise?;
        assert!(of_handler > STEPS / 4, "{of_handler} beside {STEPS}");
        Ok(String::new())
    });
    answer.await.unwrap();
}

/// A timer is a neighbour too: it fires in time, and its promise does not read as timed out.
#[tokio::test(start_paused = true)]
async fn a_timer_beside_a_promise_that_is_always_ready() {
    for neighbours in [1, 40] {
        let layer = PromiseLayer::new().promise_timeout(Duration::from_secs(1));
        let waiting = Waiting::default();
        let answer = ask(layer, |promises| {
            let sleep = || {
                waiting.0.fetch_add(1, Ordering::SeqCst);
                let waiting = waiting.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    waiting.0.fetch_sub(1, Ordering::SeqCst);
                }
            };
            // The clock is moved by hand, because a runtime that is never idle does not move it.
            let greedy = || {
                let waiting = waiting.clone();
                async move {
                    // The sleeps begin at their first poll.
                    tokio::task::yield_now().await;
                    tokio::time::advance(Duration::from_millis(20)).await;
                    waiting.greedy().await
                }
            };
            let greedy = promises.result_or_submit("greedy", greedy);
            let sleeps: Vec<_> = (0..neighbours)
                .map(|number| promises.result_or_submit(format!("sleep {number}"), sleep))
                .collect();
            for sleep in sleeps {
                sleep?;
            }
            Ok(greedy?.to_owned())
        });
        assert_eq!(answer.await.unwrap().body, "fair", "beside {neighbours}");
    }
}
