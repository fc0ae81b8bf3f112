//! Pages with fragments, whole and streamed, and the same page streamed by hand.

use crate::budget;
use crate::measured::{self, PAGES};
use crate::table::{Table, time, whole};

const COUNTS: [usize; 2] = [10, 100];

/// The allocations for the promise of a fragment, one for its future and one for its outcome, and for its HTML.
const ALLOCATIONS_OF_CONTENT: f64 = 3.0;

/// Allocations and instructions.
pub(crate) fn counts(table: &mut Table) {
    let allocations = measured::run_counting(PAGES, &["allocations", "page"]);
    let of_fragment = |figures: &measured::Figures, page: &str| {
        let [few, many] = COUNTS.map(|count| figures.get(&format!("page/{count}/{page}")));
        (many - few) / (COUNTS[1] - COUNTS[0]) as f64
    };
    let hand = of_fragment(&allocations, "hand");
    table.figure("allocations of a fragment: by hand", format!("{hand:.2}"));
    let layer = of_fragment(&allocations, "stream");
    let beyond = layer - ALLOCATIONS_OF_CONTENT;
    let figure = format!("{layer:.2}, {beyond:.2} beyond its promise and its HTML");
    let budget = budget::ALLOCATIONS_OF_FRAGMENT;
    table.judge(
        "allocations of a fragment: FragmentLayer",
        figure,
        beyond,
        budget,
    );

    let Some(instructions) = measured::instructions(PAGES, "page") else {
        return table.missing("`valgrind` is not installed");
    };
    for count in COUNTS {
        let what = format!("a page with {count} fragments");
        let hand = instructions.get(&format!("page/{count}/hand"));
        table.figure(format!("{what}: streamed by hand"), whole(hand));
        for (page, name) in [("stream", "streamed"), ("whole", "whole, in two passes")] {
            let figure = instructions.get(&format!("page/{count}/{page}"));
            let figure = format!("{}, {:.3} × by hand", whole(figure), figure / hand);
            table.figure(format!("{what}: {name}"), figure);
        }
    }
    let [hand, layer] = ["hand", "stream"].map(|page| of_fragment(&instructions, page));
    let figure = format!("{}, by hand {}", whole(layer), whole(hand));
    table.figure("instructions of a fragment", figure);
}

/// Times to the first and to the last byte of a page: a value outside takes 5 ms, ten fragments take 50 ms.
pub(crate) fn times(table: &mut Table) {
    let figures = measured::run(PAGES, &["pages"]);
    for (page, name) in [
        ("whole", "whole, in two passes"),
        ("hand", "streamed by hand"),
        ("stream", "streamed"),
    ] {
        let [first, last] = ["first", "last"].map(|byte| figures.get(&format!("{byte}/{page}")));
        table.figure(format!("{name}: last byte"), time(last));
        let what = format!("{name}: first byte");
        match page {
            "stream" => {
                // The timer of the value outside has the same inaccuracy in both.
                let beyond = (first - figures.get("first/hand")) / 1e6;
                let figure = format!("{}, {beyond:+.2} ms to by hand", time(first));
                table.judge(what, figure, beyond, budget::FIRST_BYTE);
            }
            _ => table.figure(what, time(first)),
        }
    }
}
