//! Times, each compared with the time of an alternative. Samples of the two take turns.

use crate::budget;
use crate::counts::{judge_linear, promises};
use crate::measured::{self, DEFAULT};
use crate::table::{Table, time, whole};

pub(crate) fn times(table: &mut Table) {
    let figures = measured::run(DEFAULT, &["times", "head,ready,woken"]);
    let (stack, layer) = (figures.get("head/stack"), figures.get("head/layer"));
    let figure = format!("{}, {:.3} × the stack", time(layer), layer / stack);
    table.figure("no promises", figure);
    for (kind, name) in [("ready", "ready"), ("woken", "woken once")] {
        for count in [1, 10, 100, 10_000] {
            let twice = figures.get(&format!("{kind}/{count}/twice"));
            let layer = figures.get(&format!("{kind}/{count}/layer"));
            let ratio = layer / twice;
            let what = format!("{}, {name}", promises(count));
            let figure = format!("{}, {ratio:.3} × by hand ({})", time(layer), time(twice));
            table.figure(what, figure);
        }
    }
    judge_linear(
        table,
        figures.get("linear/100"),
        figures.get("linear/10000"),
    );
}

pub(crate) fn bodies(table: &mut Table) {
    let figures = measured::run(DEFAULT, &["bodies"]);
    for (size, name) in [("1KiB", "1 KiB"), ("1MiB", "1 MiB"), ("64MiB", "64 MiB")] {
        let [twice, layer, collect] =
            ["twice", "layer", "collect"].map(|way| figures.get(&format!("{size}/{way}")));
        table.figure(format!("{name}: read twice from memory"), time(twice));
        let figure = format!("{}, {:.3} × as fast", time(collect), twice / collect);
        table.figure(format!("{name}: collected, then cloned"), figure);
        let speed = twice / layer;
        let what = format!("{name}: replayed");
        let figure = format!("{}, {speed:.3} × as fast", time(layer));
        if size == "64MiB" {
            table.judge(what, figure, speed, budget::REPLAY_SPEED);
        } else {
            table.figure(what, figure);
        }
    }
    let first = figures.get("first/layer");
    table.figure("first byte of 64 MiB: replayed", time(first));
    let collected = figures.get("first/collect");
    table.figure("first byte of 64 MiB: collected", time(collected));
    let frames = figures.get("first/frames");
    let figure = format!("{} of 1,024", whole(frames));
    table.judge(
        "frames sent before the first byte is read",
        figure,
        frames,
        budget::FRAMES_BEFORE_FIRST_BYTE,
    );
}

pub(crate) fn wire(table: &mut Table) {
    let figures = measured::run(DEFAULT, &["wire"]);
    if figures.is_empty() {
        return table.missing("`wrk` is not installed");
    }
    let relative = |app: &str, service: &str| {
        let bare = figures.get(&format!("{app}/bare"));
        let rate = figures.get(&format!("{app}/{service}"));
        let rates = format!("({} of {}/s)", whole(rate), whole(bare));
        (format!("{:.3} × without {rates}", rate / bare), rate / bare)
    };
    // The cost of any layer in axum: one more boxed future, and one more body.
    let (figure, _) = relative("plain", "extension");
    table.figure("requests per second, AddExtension in its place", figure);
    for (app, alternative, name, what) in [
        // The cost of keeping a copy of the head, and of the service for another call.
        (
            "plain",
            "stack",
            "retry + AddExtension in its place",
            "no promises",
        ),
        (
            "promises",
            "twice",
            "two passes by hand",
            "two promises, two passes",
        ),
    ] {
        let (figure, other) = relative(app, alternative);
        table.figure(format!("requests per second, {name}"), figure);
        let (figure, ratio) = relative(app, "layer");
        let figure = format!("{figure}, {:+.3}", ratio - other);
        let what = format!("requests per second, {what}");
        table.judge(what, figure, ratio - other, budget::SERVER);
    }
}
