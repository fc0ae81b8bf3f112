//! What the crate costs, beside what it may cost: `cargo bench --bench budgets`.
//!
//! Prints one table, in Markdown. `cargo bench --bench budgets -- allocations wire` measures only these subjects,
//! `-- --quick` only those that are counts: they are exact and take seconds. Times are those of the machine, so
//! they are compared only with each other, as ratios of the medians of alternating samples.
//!
//! The measured code is in `benches/measured`, a crate of its own, which is built here with the features that
//! are wanted: by default those that a user of the crate has by default. Instructions need `valgrind`, the
//! figures of a server `wrk`; both are packages of every Linux distribution. What is missing is said in the
//! table.
#![allow(clippy::unwrap_used, missing_docs)]

mod budget;
mod counts;
mod measured;
mod table;
mod times;

use table::Table;

/// What is measured, how, and whether it is a count.
const SUBJECTS: [(&str, fn(&mut Table), bool); 7] = [
    ("allocations", counts::allocations, true),
    ("instructions", counts::instructions, true),
    ("features", counts::features, true),
    ("bytes", counts::bytes, true),
    ("times", times::times, false),
    ("bodies", times::bodies, false),
    ("wire", times::wire, false),
];

fn main() {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let count = arguments.len();
    arguments.retain(|argument| argument != "--bench");
    if arguments.len() == count {
        // `cargo test --benches`: an unoptimized build says nothing about costs.
        eprintln!("to be run by `cargo bench`");
        return;
    }
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    arguments.retain(|argument| argument != "--quick");
    if let Some(unknown) = arguments.iter().find(|name| !is_subject(name)) {
        let names = SUBJECTS.map(|(name, ..)| name).join(", ");
        eprintln!("{unknown:?} is none of {names} and --quick");
        std::process::exit(2);
    }

    let mut table = Table::default();
    for (name, measure, is_count) in SUBJECTS {
        let is_chosen = arguments.is_empty() || arguments.iter().any(|chosen| chosen == name);
        if is_chosen && (is_count || !is_quick) {
            eprintln!("measuring {name}");
            table.begin(name);
            measure(&mut table);
        }
    }
    print!("{table}");
}

fn is_subject(name: &str) -> bool {
    SUBJECTS.iter().any(|subject| subject.0 == name)
}
