//! Compares the costs of `tower-promises` with its budgets: `cargo bench -p benches --bench budgets`.
//!
//! Prints a table in Markdown. `cargo bench -p benches --bench budgets -- allocations wire` measures only these
//! subjects. `-- --quick` measures only counts, which are exact and take seconds. Times depend on the machine, so they
//! are compared only with each other, as ratios of the medians of alternating samples.
//!
//! The measured code is in the package `measured`. This bench builds it with the necessary features, by default with
//! the default features of `tower-promises`. Instructions need `valgrind`, and the figures of a server need `wrk`;
//! every Linux distribution has packages of both. The table names tools that are missing.
#![allow(clippy::unwrap_used, missing_docs)]

mod budget;
mod counts;
mod measured;
mod pages;
mod table;
mod times;

use table::Table;

struct Subject {
    name: &'static str,
    measure: fn(&mut Table),
    /// Whether the figures are exact counts.
    is_count: bool,
}

const SUBJECTS: [Subject; 10] = [
    Subject::count("allocations", counts::allocations),
    Subject::count("instructions", counts::instructions),
    Subject::count("fairness", counts::fairness),
    Subject::count("features", counts::features),
    Subject::count("bytes", counts::bytes),
    Subject::count("pages", pages::counts),
    Subject::time("times", times::times),
    Subject::time("bodies", times::bodies),
    Subject::time("page-times", pages::times),
    Subject::time("wire", times::wire),
];

impl Subject {
    const fn count(name: &'static str, measure: fn(&mut Table)) -> Self {
        Self {
            name,
            measure,
            is_count: true,
        }
    }

    const fn time(name: &'static str, measure: fn(&mut Table)) -> Self {
        Self {
            name,
            measure,
            is_count: false,
        }
    }
}

fn main() {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let count = arguments.len();
    arguments.retain(|argument| argument != "--bench");
    if arguments.len() == count {
        // `cargo test --benches` builds without optimization, so its costs are meaningless.
        eprintln!("to be run by `cargo bench`");
        return;
    }
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    arguments.retain(|argument| argument != "--quick");
    let names = SUBJECTS.map(|subject| subject.name);
    if let Some(unknown) = arguments
        .iter()
        .find(|name| !names.contains(&name.as_str()))
    {
        let names = names.join(", ");
        eprintln!("{unknown:?} is none of {names} and --quick");
        std::process::exit(2);
    }

    let mut table = Table::default();
    for subject in SUBJECTS {
        let is_chosen = arguments.is_empty() || arguments.iter().any(|name| name == subject.name);
        if is_chosen && (subject.is_count || !is_quick) {
            eprintln!("measuring {}", subject.name);
            table.begin(subject.name);
            (subject.measure)(&mut table);
        }
    }
    print!("{table}");
}
