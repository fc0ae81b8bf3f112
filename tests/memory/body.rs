//! The memory that a replayable body takes.

use crate::{ALLOCATOR, TURN};
use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use stats_alloc::Region;
use std::convert::Infallible;
use tower_promises::body::ReplayBody;

/// Reads a body of `frames` frames of `size` bytes each. Returns the number of bytes that stay allocated.
async fn kept(frames: usize, size: usize, limit: usize) -> usize {
    let frames = (0..frames).map(move |_| {
        let buffer = Bytes::from(vec![7; size.max(8192)]);
        Ok::<_, Infallible>(Frame::data(buffer.slice(..size)))
    });
    let region = Region::new(ALLOCATOR);
    let mut body = ReplayBody::with_max_bytes(StreamBody::new(stream::iter(frames)), limit);
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

#[tokio::test(flavor = "current_thread")]
async fn memory_is_proportional_to_the_body_for_any_frames() {
    let _turn = TURN.lock().await;
    const LENGTH: usize = 1 << 20;
    for size in [1, 7, 100, 1000, 4096, 65_536] {
        let kept = kept(LENGTH / size, size, usize::MAX).await;
        // A frame that is larger than a tenth of its buffer may share the buffer instead of being copied.
        let most = if size < 1024 {
            LENGTH * 9 / 8
        } else {
            LENGTH * 9 / 4
        };
        assert!(
            kept < most,
            "{kept} bytes kept for {LENGTH} in frames of {size}"
        );
    }
    let kept = kept(LENGTH, 1, LENGTH / 2).await;
    assert!(
        kept < 4096,
        "{kept} bytes kept of a body that exceeds the limit"
    );
}
