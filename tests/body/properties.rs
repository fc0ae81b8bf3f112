//! Properties of `ReplayBody`, for any split into frames, any limit, and any point where a reader stops.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod replay;

use proptest::collection::vec;
use proptest::prelude::*;
use replay::{Script, Step, check, check_with};
use tower_promises::body::{ReplayBody, Spool};

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // Small frames, which are copied into one buffer, and large frames, which are not.
        6 => vec(any::<u8>(), 0..40).prop_map(Step::Data),
        2 => vec(any::<u8>(), 1000..3000).prop_map(Step::Data),
        2 => Just(Step::Pending),
        1 => Just(Step::Trailers),
        1 => Just(Step::Error),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_body_replays_with_any_frames(
        steps in vec(step(), 0..30),
        is_sized: bool,
        limit in prop_oneof![Just(usize::MAX), 0..5000_usize, 0..200_usize],
        reads in vec(0..30_usize, 0..5),
    ) {
        check(&Script { steps, is_sized, limit, reads });
    }

    #[test]
    fn a_body_of_many_tiny_frames_replays(
        frames in vec(vec(any::<u8>(), 1..4), 0..300),
        stop in 0..300_usize,
    ) {
        let steps = frames.into_iter().map(Step::Data).collect();
        check(&Script { steps, is_sized: true, limit: usize::MAX, reads: vec![stop, stop / 2] });
    }
}

/// Steps, some of which fill the chunks in which a file is written and read.
fn large_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => step(),
        2 => (any::<u8>(), 10_000..150_000_usize).prop_map(|(byte, len)| {
            let bytes = (0..=250).cycle().map(|index: u8| index ^ byte);
            Step::Data(bytes.take(len).collect())
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_spooled_body_replays_with_any_frames(
        steps in vec(large_step(), 0..20),
        is_sized: bool,
        limit in prop_oneof![Just(0), 0..5000_usize, 0..300_000_usize],
        spool in prop_oneof![Just(usize::MAX), 0..500_000_usize],
        reads in vec(0..30_usize, 0..5),
    ) {
        // The blocking threads of this runtime run although the runtime itself is not driven.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        check_with(&Script { steps, is_sized, limit, reads }, Some(spool), |body| {
            let directory = Spool::new(std::env::temp_dir()).max_bytes(spool as u64);
            ReplayBody::with_spool(body, limit, directory)
        });
    }
}
