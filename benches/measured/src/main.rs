//! What the bench `budgets` measures.
//!
//! It is a crate of its own so that it is built with the features that the bench wants to know about, and with
//! an allocator that counts only where allocations are counted. The bench runs it and reads what it prints:
//! lines of a name, a tab and a number.
//!
//! | first argument | what it prints |
//! |---|---|
//! | `allocations` | allocations of a request, for each case (with the feature `counting`) |
//! | `bytes` | bytes that a body and a request in flight take (with the feature `counting`) |
//! | `instructions` | how many requests it has sent, for each case: callgrind counts, and writes a file for each |
//! | `times` | nanoseconds that a request takes, for each case |
//! | `bodies` | nanoseconds that a body takes to be read twice, and to begin |
//! | `wire` | requests per second that an axum server answers; nothing where there is no `wrk` |
//!
//! A second argument chooses cases by the beginnings of their names, separated by commas.

mod bodies;
#[cfg(feature = "counting")]
mod counting;
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
    cases.retain(|case| chosen.iter().any(|&prefix| case.id.starts_with(prefix)));
    match subject.as_str() {
        "instructions" => cases.into_iter().for_each(send),
        "times" => times::print(cases),
        "bodies" => bodies::print(),
        "wire" => wire::print(),
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
