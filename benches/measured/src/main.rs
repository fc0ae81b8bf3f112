//! The code that the bench `budgets` measures.
//!
//! A separate crate, so that the bench can build it with the features to measure, and with an allocator that counts
//! only for counting allocations. The bench runs the program and reads its output: lines of a name, a tab and a number.
//!
//! | first argument | output |
//! |---|---|
//! | `allocations` | allocations of a request, for each case (with the feature `counting`) |
//! | `bytes` | bytes of a body and of a request in flight (with the feature `counting`) |
//! | `instructions` | the number of requests, for each case; callgrind counts and writes a file for each case |
//! | `times` | nanoseconds of a request, for each case |
//! | `fairness` | polls of a promise that takes every budget, until its neighbours have settled |
//! | `bodies` | nanoseconds to read a body twice, and until its first byte |
//! | `pages` | nanoseconds to the first and to the last byte of a page (with the feature `fragments`) |
//! | `wire` | requests per second of an axum server; nothing without `wrk` |
//!
//! A second argument selects cases by prefixes of their names, separated by commas.

mod bodies;
#[cfg(feature = "counting")]
mod counting;
mod fairness;
#[cfg(feature = "fragments")]
mod pages;
mod safe;
mod stacks;
mod times;
mod wire;

use stacks::{Case, cases};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let subject = arguments.next().unwrap_or_default();
    let chosen = arguments.next().unwrap_or_default();
    let chosen: Vec<_> = chosen.split(',').collect();
    let mut cases = cases();
    cases.extend(wire::cases());
    #[cfg(feature = "fragments")]
    cases.extend(pages::cases());
    cases.retain(|case| chosen.iter().any(|&prefix| case.id.starts_with(prefix)));
    match subject.as_str() {
        "instructions" => cases.into_iter().for_each(send),
        "times" => times::print(cases),
        "fairness" => fairness::print(),
        "bodies" => bodies::print(),
        "wire" => wire::print(),
        #[cfg(feature = "fragments")]
        "pages" => pages::print(),
        #[cfg(feature = "counting")]
        "allocations" => cases.into_iter().for_each(counting::allocations),
        #[cfg(feature = "counting")]
        "bytes" => counting::bytes(),
        other => {
            eprintln!("nothing that is measured here is called {other:?}");
            std::process::exit(2);
        }
    }
}

fn send(mut case: Case) {
    case.warm_up();
    case.sample();
    println!("{}\t{}", case.id, case.requests);
}
