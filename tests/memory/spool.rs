//! The memory that a body takes whose data goes to a file.

use crate::{ALLOCATOR, TURN};
use bytes::Bytes;
use futures_util::stream;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use stats_alloc::Region;
use std::convert::Infallible;
use tower_promises::body::{ReplayBody, Spool};

/// Reads a whole body. Returns its size and the maximum of allocated bytes after a frame.
async fn most<B>(region: &Region<'_, std::alloc::System>, mut body: ReplayBody<B>) -> (usize, usize)
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
async fn memory_is_bounded_for_any_body_and_any_frames() {
    let _turn = TURN.lock().await;
    const LIMIT: usize = 256 * 1024;
    const CHUNK: usize = 64 * 1024;
    let directory = tempfile::tempdir().unwrap();
    // Starts the blocking thread, so that its own memory does not count.
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
            // The part in memory, three chunks (filled, read ahead, and at the reader), and an eighth for the rest.
            let allowed = LIMIT * 9 / 8 + 3 * CHUNK;
            assert!(most < allowed, "{most} bytes for {len} in frames of {size}");
        }
    }
}
