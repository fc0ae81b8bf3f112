//! Exact figures: allocations, instructions, bytes.

use crate::budget::{self, Budget};
use crate::measured::{self, DEFAULT, Figures};
use crate::table::{Table, whole};

/// Sets of features. Their costs are compared with those of the first set.
const FEATURES: &[(&str, &[&str])] = &[
    ("no features", &[]),
    ("`tracing`", &["tracing"]),
    ("`server-timing`", &["server-timing"]),
    ("`metrics`, no recorder", &["metrics"]),
    ("`full`", &["full"]),
];

const REQUESTS: [(&str, &str); 3] = [
    ("head", "no body"),
    ("connection", "no body, from a connection"),
    ("body", "300 bytes of body"),
];

const SERVICES: [(&str, &str); 5] = [
    ("bare", "the bare service"),
    ("limit", "AddExtension + RequestBodyLimit"),
    ("retry", "retry with a cloned request"),
    ("stack", "the stack: retry + AddExtension"),
    ("collect", "the stack, the body collected before"),
];

const COUNTS: [usize; 4] = [1, 10, 100, 10_000];

const NO_VALGRIND: &str = "`valgrind` is not installed";

/// Adds the figures of the services that the layer is compared with.
fn others(table: &mut Table, figures: &Figures, request: &str, what: &str) {
    for (service, name) in SERVICES {
        // Only a request with a body can have it collected.
        if service != "collect" || request == "body" {
            let figure = figures.get(&format!("{request}/{service}"));
            table.figure(format!("{what}: {name}"), whole(figure));
        }
    }
}

pub(crate) fn allocations(table: &mut Table) {
    let figures = measured::run_counting(DEFAULT, &["allocations"]);
    for (request, what) in REQUESTS {
        others(table, &figures, request, what);
        let layer = figures.get(&format!("{request}/layer"));
        let budget = match request {
            "body" => budget::ALLOCATIONS_WITH_BODY,
            _ => Budget::AtMost(figures.get(&format!("{request}/stack"))),
        };
        table.judge(format!("{what}: PromiseLayer"), whole(layer), layer, budget);
    }
    for count in COUNTS {
        let twice = figures.get(&format!("ready/{count}/twice"));
        let layer = figures.get(&format!("ready/{count}/layer"));
        let figure = format!("{}, by hand {}", whole(layer), whole(twice));
        table.figure(format!("{}, two passes", promises(count)), figure);
    }
    for count in &COUNTS[1..] {
        let promises = figures.get(&format!("ready/{count}/layer"));
        let promise = figures.get("ready/1/layer");
        let each = (promises - promise) / (count - 1) as f64;
        let what = format!("each promise beyond the first, of {}", whole(*count as f64));
        let budget = budget::ALLOCATIONS_OF_PROMISE;
        table.judge(what, format!("{each:.2}"), each, budget);
    }
}

pub(crate) fn instructions(table: &mut Table) {
    let Some(figures) = measured::instructions(DEFAULT, "") else {
        return table.missing(NO_VALGRIND);
    };
    for (request, what) in REQUESTS {
        others(table, &figures, request, what);
        let layer = figures.get(&format!("{request}/layer"));
        let ratio = layer / figures.get(&format!("{request}/stack"));
        let what = format!("{what}: PromiseLayer");
        let figure = format!("{}, {ratio:.3} × the stack", whole(layer));
        let budget = match request {
            "body" => budget::INSTRUCTIONS_WITH_BODY,
            _ => budget::INSTRUCTIONS_OF_STACK,
        };
        table.judge(what, figure, ratio, budget);
    }
    for (kind, name) in [("ready", "ready"), ("woken", "woken once")] {
        for (count, budget) in COUNTS.into_iter().zip(budget::INSTRUCTIONS_BY_HAND) {
            let [safe, bounded, twice, layer] = ["safe", "bounded", "twice", "layer"]
                .map(|service| figures.get(&format!("{kind}/{count}/{service}")));
            let what = format!("{}, {name}", promises(count));
            let ratio = |figure: f64| {
                let (figure, ratio) = (whole(figure), figure / twice);
                format!("{figure}, {ratio:.3} × by hand")
            };
            table.figure(format!("{what}: by hand"), whole(twice));
            let safely = "by hand, safe for production";
            table.figure(format!("{what}: {safely}"), ratio(safe));
            let two = format!("{what}: PromiseLayer, `max_passes(2)`");
            table.figure(two, ratio(bounded));
            let what = format!("{what}: PromiseLayer");
            table.judge(what.clone(), ratio(layer), layer / twice, budget);
            let what = format!("{what}, against {safely}");
            let figure = format!("{:.3} × {safely}", layer / safe);
            table.judge(what, figure, layer / safe, budget::INSTRUCTIONS_OF_SAFE);
        }
    }
    for count in &COUNTS[1..] {
        let figure = figures.get(&format!("fair/{count}/layer"));
        let what = format!("{}, one of which takes every budget", promises(*count));
        table.figure(what, whole(figure));
    }
    for (app, others, what) in [
        (
            "plain",
            [("extension", "AddExtension"), ("stack", "the stack")].as_slice(),
            "axum, no promises",
        ),
        (
            "promises",
            &[("twice", "by hand")],
            "axum, two promises, two passes",
        ),
    ] {
        let bare = figures.get(&format!("axum/{app}/bare"));
        table.figure(format!("{what}: the handler alone"), whole(bare));
        for (service, name) in others.iter().chain(&[("layer", "PromiseLayer")]) {
            let figure = figures.get(&format!("axum/{app}/{service}"));
            let figure = format!(
                "{}, of which {} are its own",
                whole(figure),
                whole(figure - bare)
            );
            table.figure(format!("{what}: {name}"), figure);
        }
    }
    let [few, many] = [100, 10_000].map(|count| figures.get(&format!("woken/{count}/layer")));
    judge_linear(table, few, many);
}

/// Compares the cost of one of 10,000 promises with that of one of 100. `few` and `many` are the total costs.
pub(crate) fn judge_linear(table: &mut Table, few: f64, many: f64) {
    let ratio = (many / 10_000.0) / (few / 100.0);
    let figure = format!("{ratio:.3} × that of one of 100");
    table.judge(
        "cost of one of 10,000 promises",
        figure,
        ratio,
        budget::PROMISE_OF_MANY,
    );
}

/// The polls that a promise needs to let its neighbours settle, if it uses up the cooperative budget in each.
pub(crate) fn fairness(table: &mut Table) {
    let figures = measured::run(DEFAULT, &["fairness"]);
    for count in &COUNTS[1..] {
        let polls = figures.get(&format!("fair/{count}"));
        let what = format!("{}, one of which takes every budget", promises(*count));
        let figure = format!("{} polls until all others have settled", whole(polls));
        table.judge(what, figure, polls, budget::polls_of_greedy(*count));
    }
}

/// The costs of features that a request does not use.
pub(crate) fn features(table: &mut Table) {
    let mut without = None;
    for &(name, features) in FEATURES {
        let Some(figures) = measured::instructions(features, "head/layer,ready/10/layer") else {
            return table.missing(NO_VALGRIND);
        };
        let figures = [figures.get("head/layer"), figures.get("ready/10/layer")];
        let without = *without.get_or_insert(figures);
        let subjects = [
            ("no promises", budget::FEATURES_WITHOUT_PROMISES),
            ("10 promises, two passes", budget::FEATURES_WITH_PROMISES),
        ];
        for ((figure, without), (what, budget)) in figures.into_iter().zip(without).zip(subjects) {
            let ratio = figure / without;
            let figure = format!("{} instructions, {ratio:.3} × without", whole(figure));
            table.judge(format!("{name}: {what}"), figure, ratio, budget);
        }
    }
}

pub(crate) fn bytes(table: &mut Table) {
    let figures = measured::run_counting(DEFAULT, &["bytes"]);
    let replay = figures.get("replay");
    let part = replay / f64::from(64 << 20);
    let figure = format!("{part:.4} of the body ({} bytes)", whole(replay));
    let what = "allocated to replay 64 MiB";
    table.judge(what, figure, part, budget::REPLAYED_BYTES);
    let [bare, head, layer] =
        ["bare", "head", "layer"].map(|name| figures.get(&format!("flight/{name}")));
    table.figure(
        "in flight, of 10,000: the service's own future",
        whole(bare),
    );
    table.figure("in flight, of 10,000: a request's head", whole(head));
    table.figure(
        "in flight, of 10,000: PromiseLayer, all in all",
        whole(layer),
    );
    let beyond = layer - head - bare;
    let what = "in flight, of 10,000: PromiseLayer, beyond both";
    table.judge(what, whole(beyond), beyond, budget::BYTES_IN_FLIGHT);
}

pub(crate) fn promises(count: usize) -> String {
    match count {
        1 => "1 promise".to_owned(),
        _ => format!("{} promises", whole(count as f64)),
    }
}
