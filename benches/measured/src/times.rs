//! Times of alternatives, compared with each other.

use crate::stacks::{Case, measured};
use std::iter::repeat_with;
use std::time::{Duration, Instant};

/// The duration of one comparison.
const DURATION: Duration = Duration::from_secs(2);

/// The minimum number of rounds, which is enough for a median of slow samples.
const LEAST_ROUNDS: usize = 51;

pub fn print(mut cases: Vec<Case>) {
    compare_counts(&mut cases);
    compare_services(cases);
}

/// Compares many promises with few.
fn compare_counts(cases: &mut [Case]) {
    let chosen = ["woken/100/layer", "woken/10000/layer"];
    let cases = cases
        .iter_mut()
        .filter(|case| chosen.contains(&case.id.as_str()));
    let Ok([few, many]) = <[_; 2]>::try_from(cases.collect::<Vec<_>>()) else {
        return;
    };
    let [first, second] = compare([&mut || sample(few), &mut || sample(many)]);
    println!("linear/100\t{first}");
    println!("linear/10000\t{second}");
}

/// Compares the last two cases of each kind of request: the layer and its baseline.
fn compare_services(cases: Vec<Case>) {
    let mut cases = cases.into_iter().peekable();
    while let Some(mut baseline) = cases.next() {
        let is_pair = |case: &Case| case.kind() == baseline.kind() && case.id.ends_with("/layer");
        let Some(mut layer) = cases.next_if(is_pair) else {
            continue;
        };
        let [first, second] = compare([&mut || sample(&mut baseline), &mut || sample(&mut layer)]);
        println!("{}\t{first}", baseline.id);
        println!("{}\t{second}", layer.id);
    }
}

/// The nanoseconds of one request. The clock is too coarse for a single request, so all requests are created first and
/// measured together.
fn sample(case: &mut Case) -> f64 {
    let make = || (case.request)();
    let requests: Vec<_> = repeat_with(make).take(case.requests).collect();
    let start = Instant::now();
    for request in requests {
        measured(&mut case.client, request);
    }
    nanoseconds(start.elapsed()) / case.requests as f64
}

/// Takes samples in alternation, so that a disturbance affects all of them, and returns the medians.
pub fn compare<const N: usize>(mut samplers: [&mut dyn FnMut() -> f64; N]) -> [f64; N] {
    // The first round warms up.
    for sample in &mut samplers {
        sample();
    }
    let mut samples = [const { Vec::new() }; N];
    let start = Instant::now();
    while start.elapsed() < DURATION || samples[0].len() < LEAST_ROUNDS {
        for (sample, samples) in samplers.iter_mut().zip(&mut samples) {
            samples.push(sample());
        }
    }
    samples.map(median)
}

pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

pub fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}
