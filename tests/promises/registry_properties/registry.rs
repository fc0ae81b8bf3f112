//! A model of the registry: the steps of a handler and their expected outcomes.

use std::collections::BTreeSet;

/// A step of a handler. The number is the name of a promise.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Submit(usize),
    Result(usize),
    /// Reads a result with a type that no promise has.
    OtherResult(usize),
    ResultOrSubmit(usize),
    Resolve(usize),
    /// Starts to await the promise and drops the waiter.
    GiveUp(usize),
    Cancel(usize),
    Clear(usize),
    Reset(usize),
    Publish,
}

/// The outcome of a step that the handler observes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// The value, which is the number of its promise.
    Value(usize),
    Done,
    Answer(bool),
    Pending,
    Cancelled,
    NotSubmitted,
    AlreadyResolved,
    WrongType,
    TooMany,
}

/// The result of the end of a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Publish,
    Repeat,
    Reject,
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Demand {
    Met,
    Submitted,
    Missed,
}

struct Entry {
    name: usize,
    number: usize,
    demand: Demand,
    /// The promise runs as soon as the handler awaits.
    is_starting: bool,
    settled: Option<Outcome>,
}

/// The model of a request. Every promise has its value after one poll.
pub struct Model {
    pub is_eager: bool,
    pub max_promises: usize,
    pub max_passes: usize,
    /// The settled promises of the outer request. The value of each is its name.
    pub outer: BTreeSet<usize>,
    entries: Vec<Entry>,
    pass: usize,
    count: usize,
    is_overfull: bool,
    publish: bool,
    /// The numbers of the promises that have been polled.
    pub polled: BTreeSet<usize>,
}

/// The numbers of promises start here, so that they differ from the names of outer promises.
pub const FIRST_NUMBER: usize = 1000;

impl Model {
    pub fn new(is_eager: bool, max_promises: usize, max_passes: usize, outer: usize) -> Self {
        Self {
            is_eager,
            max_promises,
            max_passes,
            outer: (0..outer).collect(),
            entries: Vec::new(),
            pass: 1,
            count: 0,
            is_overfull: false,
            publish: false,
            polled: BTreeSet::new(),
        }
    }

    /// The number of the next submitted promise.
    pub fn next_number(&self) -> usize {
        FIRST_NUMBER + self.count
    }

    pub fn names(&self) -> Vec<usize> {
        self.entries.iter().map(|entry| entry.name).collect()
    }

    pub fn is_pending(&self) -> bool {
        self.verdict() != End::Publish
    }

    pub fn step(&mut self, step: Step) -> Outcome {
        match step {
            Step::Submit(name) => self.submit(name, Demand::Submitted),
            Step::Result(name) => self.read(name),
            Step::OtherResult(name) => {
                let is_there = self.find(name).is_some() || self.outer.contains(&name);
                match is_there {
                    true => Outcome::WrongType,
                    false => Outcome::NotSubmitted,
                }
            }
            Step::ResultOrSubmit(name) => match self.read(name) {
                Outcome::NotSubmitted => match self.submit(name, Demand::Missed) {
                    Outcome::Done => Outcome::Pending,
                    other => other,
                },
                other => other,
            },
            Step::Resolve(name) => self.resolve(name),
            Step::GiveUp(name) => self.give_up(name),
            Step::Cancel(name) => Outcome::Answer(match self.find(name) {
                Some(entry) if entry.settled.is_none() => {
                    entry.settled = Some(Outcome::Cancelled);
                    entry.demand = Demand::Met;
                    true
                }
                _ => false,
            }),
            Step::Clear(name) => self.remove(name, |entry| entry.settled.is_some()),
            Step::Reset(name) => self.remove(name, |_| true),
            Step::Publish => {
                self.publish = true;
                Outcome::Done
            }
        }
    }

    pub fn end_pass(&mut self) -> End {
        let end = self.verdict();
        if end == End::Repeat {
            for entry in &mut self.entries {
                entry.is_starting = true;
            }
            self.run();
            for entry in &mut self.entries {
                entry.demand = Demand::Met;
            }
            self.pass += 1;
        }
        end
    }

    fn verdict(&self) -> End {
        if self.publish {
            End::Publish
        } else if self.is_overfull {
            End::Reject
        } else if self.entries.iter().all(|entry| entry.demand == Demand::Met) {
            End::Publish
        } else if self.pass == self.max_passes {
            End::Reject
        } else {
            End::Repeat
        }
    }

    fn find(&mut self, name: usize) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.name == name)
    }

    fn read(&mut self, name: usize) -> Outcome {
        let in_outer = self.outer.contains(&name);
        let Some(entry) = self.find(name) else {
            return match in_outer {
                true => Outcome::Value(name),
                false => Outcome::NotSubmitted,
            };
        };
        let Some(settled) = entry.settled else {
            entry.demand = Demand::Missed;
            return Outcome::Pending;
        };
        if entry.demand == Demand::Submitted {
            entry.demand = Demand::Met;
        }
        settled
    }

    fn submit(&mut self, name: usize, demand: Demand) -> Outcome {
        if let Some(entry) = self.find(name) {
            if entry.settled.is_some() {
                return Outcome::AlreadyResolved;
            }
            if demand > entry.demand {
                entry.demand = demand;
            }
            return Outcome::Done;
        }
        if self.outer.contains(&name) {
            return Outcome::AlreadyResolved;
        }
        self.insert(name, demand, self.is_eager)
    }

    fn insert(&mut self, name: usize, demand: Demand, is_starting: bool) -> Outcome {
        if self.count == self.max_promises {
            self.is_overfull = true;
            return Outcome::TooMany;
        }
        let number = self.next_number();
        self.count += 1;
        self.entries.push(Entry {
            name,
            number,
            demand,
            is_starting,
            settled: None,
        });
        Outcome::Done
    }

    fn resolve(&mut self, name: usize) -> Outcome {
        let in_outer = self.outer.contains(&name);
        match self.find(name) {
            Some(entry) => entry.is_starting = true,
            None if in_outer => {}
            None => match self.insert(name, Demand::Met, true) {
                Outcome::Done => {}
                other => return other,
            },
        }
        if self.find(name).is_some_and(|entry| entry.settled.is_none()) {
            self.run();
        }
        self.read(name)
    }

    fn give_up(&mut self, name: usize) -> Outcome {
        let in_outer = self.outer.contains(&name);
        match self.find(name) {
            // The promise has settled, so there is no waiting.
            Some(entry) if entry.settled.is_some() => self.read(name),
            Some(entry) => {
                entry.is_starting = true;
                if entry.demand == Demand::Met {
                    self.entries.retain(|entry| entry.name != name);
                }
                Outcome::Pending
            }
            None if in_outer => self.read(name),
            None => match self.insert(name, Demand::Met, true) {
                Outcome::Done => {
                    self.entries.pop();
                    Outcome::Pending
                }
                other => other,
            },
        }
    }

    fn remove(&mut self, name: usize, condition: impl Fn(&Entry) -> bool) -> Outcome {
        Outcome::Answer(match self.find(name) {
            Some(entry) if condition(entry) => {
                self.entries.retain(|entry| entry.name != name);
                true
            }
            Some(_) => false,
            None => self.outer.remove(&name),
        })
    }

    /// Runs the starting promises.
    fn run(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.is_starting) {
            if entry.settled.is_none() {
                entry.settled = Some(Outcome::Value(entry.number));
                self.polled.insert(entry.number);
            }
        }
    }
}
