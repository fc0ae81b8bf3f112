//! A process dies before or after each call of its backend, and another one continues.

use crate::mortal::{Death, Mortal};
use crate::process::{Diary, Handle, LEASE, Process, layer};
use axum::body::Body;
use std::collections::BTreeSet;
use std::time::Duration;
use test_support::operation::{SECOND, request_with};
use tokio::select;
use tokio::time::{sleep, timeout};
use tower_promises::backend::Backend;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a client asks, and how long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happens outside of the processes.
#[derive(Clone, Default)]
struct World {
    /// The calls of the provider, by idempotency key.
    calls: Diary,
    /// The steps that have run.
    steps: Diary,
    /// The addresses in the mails.
    mails: Diary,
}

impl World {
    fn order(&self) -> impl Handle + use<> {
        let world = self.clone();
        move |promises| {
            let step = |name: &'static str, note: Diary, text: String| {
                let steps = world.steps.clone();
                promises.durable(name, move || async move {
                    steps.note(name);
                    note.note(text);
                    sleep(SECOND / 2).await;
                    name.to_owned()
                })
            };
            let key = promises.idempotency_key("charge").expect("it is durable");
            let stock = step("reserve", Diary::default(), String::new());
            let charge = step("charge", world.calls.clone(), key);
            let (stock, charge) = (stock?, charge?);
            promises.sleep("cool off", DAY)?;
            let url = promises.outside_url("approval")?;
            step("mail", world.mails.clone(), url)?;
            let approval = promises.outside::<String>("approval")?;
            let ship = step("ship", Diary::default(), String::new())?;
            Ok([stock, charge, approval, ship].join(" "))
        }
    }
}

/// Runs an order in a process that dies, and from then on in another one. Returns the number of calls of the process.
async fn order(death: Death) -> usize {
    let (world, backend) = (World::default(), Backend::memory());
    let (mortal, life) = Mortal::backend(&backend, death);
    let first = Process::start(layer(&mortal).idempotency_keys(true), world.order());
    let steps_before;
    let outcome = select! {
        outcome = ask_until_ended(&first, &world) => {
            // The last calls come after the end.
            sleep(10 * LEASE).await;
            steps_before = world.steps.read();
            Some(outcome)
        }
        () = life.over() => {
            steps_before = world.steps.read();
            None
        }
    };
    drop(first);
    let outcome = match outcome {
        Some(outcome) => outcome,
        None => {
            let second = Process::start(layer(&backend).idempotency_keys(true), world.order());
            let release = async {
                // The second process has taken the operation over.
                sleep(LEASE + SECOND / 2).await;
                life.release();
            };
            tokio::join!(ask_until_ended(&second, &world), release).0
        }
    };
    assert_eq!(outcome, "reserve charge yes ship", "{death:?}");
    let keys: BTreeSet<_> = world.calls.read().into_iter().collect();
    assert_eq!(keys.len(), 1, "{death:?}: one charge for the provider");
    for step in ["reserve", "charge", "mail", "ship"] {
        let before = steps_before.iter().filter(|it| *it == step).count();
        let runs = world.steps.count(step);
        assert!(
            (1..=2).contains(&runs) && before <= 1,
            "{death:?}: {step} ran {runs} times"
        );
    }
    // Only what was under way at the death may have run twice: the two first steps together, or one of the others.
    let repeated = world.steps.read().len() - 4;
    assert!(repeated <= 2, "{death:?}: {:?}", world.steps.read());
    life.calls()
}

/// Sends the request until its result comes, and approves what is mailed meanwhile.
async fn ask_until_ended(process: &Process, world: &World) -> String {
    loop {
        if let Some(result) = ask(process, world).await {
            return result;
        }
        sleep(60 * 60 * SECOND).await;
    }
}

/// Sends the request and approves what was mailed. Returns the result of the order.
async fn ask(process: &Process, world: &World) -> Option<String> {
    let headers = [("idempotency-key", "order-7"), ("prefer", "respond-async")];
    let request = request_with("POST /order", &headers, Body::empty());
    if let Ok(answer) = timeout(PATIENCE, process.send(request)).await {
        match answer.status.as_u16() {
            200 => return Some(answer.body),
            202 | 503 => {}
            _ => panic!("{answer:?}"),
        }
    }
    for url in world.mails.read() {
        let settled = process.settle(&url, r#"{"value": "yes"}"#);
        if let Ok(settled) = timeout(PATIENCE, settled).await {
            assert!(matches!(settled.status.as_u16(), 200 | 503), "{settled:?}");
        }
    }
    None
}

/// Every store, queue and bus call is a possible point of death: before it takes effect, after, and long before.
#[tokio::test(start_paused = true)]
async fn an_order_survives_the_death_of_its_process_at_every_call() {
    let calls = order(Death::Never).await;
    assert!(calls > 40, "{calls}");
    let mut deaths = 0;
    for number in 0.. {
        let mut calls = order(Death::Before(number)).await;
        calls = calls.max(order(Death::After(number)).await);
        calls = calls.max(order(Death::Late(number)).await);
        if calls <= number {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 40, "{deaths}");
}

/// The number of deaths after which the processes of an order live.
const DEATHS: usize = 12;

/// Runs an order in two processes at the same time. Each dies after some calls and is replaced.
async fn order_among_deaths(seed: u64) {
    let (world, backend) = (World::default(), Backend::memory());
    let mut random = seed;
    let mut deaths = 0;
    let mut start = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let (number, kind) = ((random >> 33) as usize % 60, (random >> 60) % 3);
        let death = match kind {
            _ if deaths >= DEATHS => Death::Never,
            0 => Death::Before(number),
            1 => Death::After(number),
            _ => Death::Late(number),
        };
        deaths += 1;
        let (mortal, life) = Mortal::backend(&backend, death);
        let layer = layer(&mortal).idempotency_keys(true).max_recoveries(100);
        (Process::start(layer, world.order()), life)
    };
    let mut processes = [start(), start()];
    let outcome = 'outcome: {
        for _ in 0..1000 {
            for (process, life) in &mut processes {
                if life.is_over() {
                    life.release();
                    (*process, *life) = start();
                }
                if let Some(outcome) = ask(process, &world).await {
                    break 'outcome outcome;
                }
            }
            sleep(600 * SECOND).await;
        }
        panic!("{seed}: the order does not end");
    };
    assert_eq!(outcome, "reserve charge yes ship", "{seed}");
    let keys: BTreeSet<_> = world.calls.read().into_iter().collect();
    assert_eq!(keys.len(), 1, "{seed}: one charge for the provider");
    for step in ["reserve", "charge", "mail", "ship"] {
        let runs = world.steps.count(step);
        assert!(
            (1..=deaths).contains(&runs),
            "{seed}: {step} ran {runs} times"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_survives_many_deaths() {
    for seed in 0..10 {
        order_among_deaths(seed).await;
    }
}
