//! How much memory a body takes that goes to a file. Alone in its file: it counts what the process
//! allocates.

use bytes::Bytes;
use futures_util::stream;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::convert::Infallible;
use tower_promises::body::{ReplayBody, Spool};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Reads all of it and says how much was allocated at most after a frame.
async fn most<B>(region: &Region<'_, System>, mut body: ReplayBody<B>) -> (usize, usize)
where
    B: Body<Error = Infallible>,
{
    let (mut len, mut most) = (0, 0);
    while let Some(frame) = body.frame().await {
        len += frame.unwrap().into_data().unwrap().len();
        let change = region.change();
        most = most.max(
            change
                .bytes_allocated
                .saturating_sub(change.bytes_deallocated),
        );
    }
    (len, most)
}

#[tokio::test(flavor = "current_thread")]
async fn memory_is_flat_whatever_the_body_and_its_frames() {
    const LIMIT: usize = 256 * 1024;
    const CHUNK: usize = 64 * 1024;
    let directory = tempfile::tempdir().unwrap();
    // The blocking thread and what it needs are there from the start.
    tokio::task::spawn_blocking(|| ()).await.unwrap();
    for (len, size) in [
        (1 << 20, 1),
        (10 << 20, 128),
        (40 << 20, 8192),
        (40 << 20, CHUNK),
    ] {
        let region = Region::new(ALLOCATOR);
        let frames = (0..len / size).map(move |_| {
            let buffer = Bytes::from(vec![7; size.max(8192)]);
            Ok::<_, Infallible>(Frame::data(buffer.slice(..size)))
        });
        let spool = Spool::new(directory.path());
        let body = StreamBody::new(stream::iter(frames));
        let first = ReplayBody::with_spool(body, LIMIT, spool);
        let second = first.replay();
        for body in [first, second] {
            let (read, most) = most(&region, body).await;
            assert_eq!(read, len);
            // What stays, a chunk that fills up or is read ahead, one that the reader has, small change.
            let allowed = LIMIT * 9 / 8 + 3 * CHUNK;
            assert!(most < allowed, "{most} bytes for {len} in frames of {size}");
        }
    }
}
