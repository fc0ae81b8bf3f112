//! A checker: an order in two processes that die at random calls, under the rules of durable operations.
//!
//! A schedule is a seed. It decides when processes die and how, when the client asks, and what is approved. The rules:
//! what is remembered never runs again, the order ends, one end is recorded, nothing is read that is not stored, and the
//! provider has one charge. `DURABLE_SCHEDULES` sets the number of schedules, 200 by default. Each has a runtime of its
//! own, on as many threads as the machine has processors.

use crate::mortal::{Death, Life, Mortal};
use crate::process::{Diary, Handle, Process, layer};
use crate::witness::{Fault, Witness};
use axum::body::Body;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::{available_parallelism, scope};
use std::time::{Duration, Instant};
use test_support::operation::{SECOND, request_with};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};
use tower_promises::backend::Backend;
use tower_promises::{PromiseLayer, Promises};

/// How long the order sleeps, and the longest pause of the client. Both are short, so that most of the calls at which
/// processes die are those of the order, and few are those of a client that asks in vain.
const NAP: Duration = Duration::from_secs(10 * 60);
const PAUSE: usize = 5 * 60;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The number of deaths after which the processes of an order live. With half as many, and a client that asks one process
/// at a time, schedules are a third faster, but a missing fence is found after 66 of them instead of two.
const DEATHS: usize = 12;

/// A generator of pseudo-random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[derive(Clone, Default)]
struct World {
    witness: Witness,
    /// The charges of the provider, by idempotency key.
    charges: Diary,
    mails: Diary,
}

impl World {
    /// Runs a step, unless the store remembers it, and reads it, if the store remembers it.
    fn step(
        &self,
        promises: &Promises,
        name: &'static str,
        (diary, text): (&Diary, String),
    ) -> Result<String, tower_promises::PromiseError> {
        let (witness, diary) = (self.witness.clone(), diary.clone());
        let value = promises.durable(name, move || async move {
            if witness.runs() == 0 {
                witness.break_rule("a run has begun that is not stored");
            }
            if witness.remembered(name).is_some() {
                witness.break_rule(format!("{name} runs again"));
            }
            diary.note(text);
            sleep(SECOND / 2).await;
            name.to_owned()
        });
        if value.is_ok() && self.witness.remembered(name).is_none() {
            self.witness
                .break_rule(format!("{name} is read and not stored"));
        }
        value
    }

    fn order(&self) -> impl Handle + use<> {
        let world = self.clone();
        let nothing = Diary::default();
        move |promises| {
            let step = |name| world.step(promises, name, (&nothing, String::new()));
            let key = promises.idempotency_key("charge").expect("it is durable");
            let stock = step("reserve");
            let charge = world.step(promises, "charge", (&world.charges, key));
            let (stock, charge) = (stock?, charge?);
            promises.sleep("cool off", NAP)?;
            let url = promises.outside_url("approval")?;
            world.step(promises, "mail", (&world.mails, url))?;
            let approval = promises.outside::<String>("approval")?;
            let ship = step("ship")?;
            Ok([stock, charge, approval, ship].join(" "))
        }
    }

    /// Sends the request, and settles what was mailed. Returns the result of the order.
    async fn ask(&self, process: &Process, random: &mut Random) -> Option<String> {
        let headers = [("idempotency-key", "order-7"), ("prefer", "respond-async")];
        let request = request_with("POST /order", &headers, Body::empty());
        if let Ok(answer) = timeout(PATIENCE, process.send(request)).await {
            match answer.status.as_u16() {
                200 => return Some(answer.body),
                202 | 503 => {}
                _ => self.witness.break_rule(format!("{answer:?}")),
            }
        }
        for url in self.mails.read() {
            let approval = ["yes", "no"][random.below(2)];
            let message = format!(r#"{{"value": "{approval}"}}"#);
            let settled = process.settle(&url, &message);
            let Ok(settled) = timeout(PATIENCE, settled).await else {
                continue;
            };
            let stored = self.witness.remembered("approval");
            let is_stored = stored.is_some_and(|it| it["value"]["json"] == approval);
            match settled.status.as_u16() {
                200 if is_stored => {}
                409 if !is_stored => {}
                410 | 503 => {}
                _ => self.witness.break_rule(format!("{approval}: {settled:?}")),
            }
        }
        None
    }

    fn start(&self, backend: &Backend, death: Death) -> (Process, Arc<Life>) {
        let (mortal, life) = Mortal::backend(backend, death);
        let layer = layer(&mortal)
            .idempotency_keys(true)
            .retention(100 * HOUR)
            .max_recoveries(100);
        // The layer looks for the number of processors of the machine, in files, which takes a tenth of the time.
        static PROMISES: LazyLock<PromiseLayer> = LazyLock::new(PromiseLayer::new);
        let process = Process::with(layer, PROMISES.clone(), self.order());
        (process, life)
    }
}

/// Runs a schedule in a runtime of its own, so that tasks of dead processes slow down no other schedule. Returns the
/// rules that were broken.
fn broken_rules(seed: u64, fault: Fault) -> Vec<String> {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(run(seed, fault))
}

async fn run(seed: u64, fault: Fault) -> Vec<String> {
    let world = World::default();
    let backend = world.witness.backend(fault);
    let mut random = Random(seed);
    let mut deaths = 0;
    let mut start = |random: &mut Random| {
        let number = random.below(60);
        let death = match random.below(4) {
            _ if deaths >= DEATHS => Death::Never,
            0 => Death::Before(number),
            1 => Death::After(number),
            2 => Death::Late(number),
            _ => Death::Unanswered(number),
        };
        deaths += 1;
        world.start(&backend, death)
    };
    let mut processes = [start(&mut random), start(&mut random)];
    let mut outcome = None;
    'rounds: for _ in 0..300 {
        for (process, life) in &mut processes {
            if life.is_over() {
                life.release();
                (*process, *life) = start(&mut random);
            }
            outcome = world.ask(process, &mut random).await;
            if outcome.is_some() || !world.witness.broken().is_empty() {
                break 'rounds;
            }
        }
        sleep(SECOND * u32::try_from(1 + random.below(PAUSE)).unwrap()).await;
    }
    // What was late must change nothing after the end.
    for (_, life) in &processes {
        life.release();
    }
    sleep(SECOND).await;
    let mut broken = world.witness.broken();
    match (outcome, world.witness.remembered("approval")) {
        (Some(outcome), Some(approval)) => {
            let approval = approval["value"]["json"].as_str().unwrap().to_owned();
            if outcome != format!("reserve charge {approval} ship") {
                broken.push(format!("the outcome is {outcome}"));
            }
        }
        _ => broken.push("the order does not end".to_owned()),
    }
    let keys: BTreeSet<_> = world.charges.read().into_iter().collect();
    if keys.len() > 1 {
        broken.push("two charges".to_owned());
    }
    broken
}

#[test]
fn no_schedule_breaks_a_rule() {
    let number = std::env::var("DURABLE_SCHEDULES").ok();
    let number: u64 = number.map_or(200, |number| number.parse().unwrap());
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let check = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= number {
                break;
            }
            let broken = broken_rules(seed, Fault::None);
            assert!(broken.is_empty(), "schedule {seed}: {broken:?}");
        }
    };
    scope(|threads| {
        for _ in 0..available_parallelism().map_or(1, Into::into) {
            threads.spawn(check);
        }
    });
    let rate = number as f64 / began.elapsed().as_secs_f64();
    println!("{number} schedules, {rate:.0} in a second");
}

/// Asserts that the checker finds a fault, and that the broken rule is one of these.
fn finds(fault: Fault, rules: &[&str]) {
    for seed in 0..200 {
        let broken = broken_rules(seed, fault);
        let is_rule = |broken: &String| rules.iter().any(|rule| broken.contains(rule));
        if broken.iter().any(is_rule) {
            println!("{fault:?}: schedule {seed}: {broken:?}");
            return;
        }
    }
    panic!("{fault:?} is not found");
}

#[test]
fn a_missing_fence_is_found() {
    let rules = [
        "forgotten",
        "settled twice",
        "went back",
        "two ends",
        "runs again",
    ];
    finds(Fault::NoFence, &rules);
}

#[test]
fn a_run_that_begins_before_it_owns_the_operation_is_found() {
    finds(Fault::NoTakeover, &["has begun that is not stored"]);
}

#[test]
fn a_second_settlement_is_found() {
    finds(
        Fault::SettledTwice,
        &["settled twice", "approval is forgotten"],
    );
}

#[test]
fn a_value_that_is_read_before_it_is_stored_is_found() {
    finds(Fault::ReadBeforeStored, &["is read and not stored"]);
}
