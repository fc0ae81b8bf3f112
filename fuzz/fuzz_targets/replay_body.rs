//! Compares `ReplayBody` with a model, for arbitrary frames, limits and readers.
#![no_main]

#[path = "../../tests/body/properties/replay.rs"]
mod replay;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use replay::{Script, Step, check};

#[derive(Arbitrary, Debug)]
struct Input {
    frames: Vec<Frame>,
    is_sized: bool,
    limit: u16,
    reads: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Frame {
    Data(Vec<u8>),
    /// Longer than the inputs that libFuzzer usually generates, so that both ways of keeping data are covered.
    LongData {
        byte: u8,
        len: u16,
    },
    Trailers,
    Error,
    Pending,
}

fuzz_target!(|input: Input| {
    let steps = input.frames.into_iter().map(|frame| match frame {
        Frame::Data(data) => Step::Data(data),
        Frame::LongData { byte, len } => Step::Data(vec![byte; usize::from(len)]),
        Frame::Trailers => Step::Trailers,
        Frame::Error => Step::Error,
        Frame::Pending => Step::Pending,
    });
    check(&Script {
        steps: steps.collect(),
        is_sized: input.is_sized,
        limit: usize::from(input.limit),
        reads: input.reads.into_iter().map(usize::from).collect(),
    });
});
