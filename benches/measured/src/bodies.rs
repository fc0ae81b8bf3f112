//! Bodies that are read twice.

use crate::stacks::run;
use crate::times::{compare, nanoseconds};
use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tower::{Layer, Service, service_fn};
use tower_promises::{BoxError, PromiseLayer, Promises};

const SIZES: [(&str, usize); 3] = [("1KiB", 1 << 10), ("1MiB", 1 << 20), ("64MiB", 64 << 20)];

/// The size of a read of a server from a connection.
const FRAME: usize = 64 << 10;

pub fn print() {
    for (name, size) in SIZES {
        let memory = Bytes::from(vec![7; size]);
        let [twice, layer, collect] = compare([
            &mut || timed(|| read_twice(&memory)),
            &mut || timed(|| read_with_layer(&memory)),
            &mut || timed(|| collect_then_read(&memory)),
        ]);
        println!("{name}/twice\t{twice}");
        println!("{name}/layer\t{layer}");
        println!("{name}/collect\t{collect}");
    }
    let memory = Bytes::from(vec![7; 64 << 20]);
    let [layer, collect] = compare([
        &mut || nanoseconds(first_byte(&memory, false).0),
        &mut || nanoseconds(first_byte(&memory, true).0),
    ]);
    println!("first/layer\t{layer}");
    println!("first/collect\t{collect}");
    println!("first/frames\t{}", first_byte(&memory, false).1);
}

fn timed(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    nanoseconds(start.elapsed())
}

/// A body that arrives in frames. It is pending before each frame, like the body of a connection.
#[derive(Clone)]
struct Frames {
    rest: Bytes,
    is_there: bool,
    /// The number of frames that were taken from all clones.
    taken: Arc<AtomicUsize>,
}

impl Frames {
    fn new(memory: &Bytes) -> Self {
        Self {
            rest: memory.clone(),
            is_there: false,
            taken: Arc::default(),
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.is_there = !self.is_there;
        if self.is_there && !self.rest.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(FRAME);
        self.taken.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Reads each byte of a body.
async fn read<B>(mut body: B, on_frame: impl Fn()) -> Result<u64, BoxError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut sum = 0;
    while let Some(frame) = body.frame().await {
        on_frame();
        let frame = frame.map_err(Into::into)?;
        let data = frame.data_ref().map_or(&[][..], Buf::chunk);
        sum += data.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    }
    Ok(sum)
}

fn check(sum: Result<u64, BoxError>, memory: &Bytes) {
    assert_eq!(
        sum.expect("the body has no errors"),
        7 * memory.len() as u64
    );
}

/// The baseline for replay.
fn read_twice(memory: &Bytes) {
    let body = Frames::new(memory);
    check(run(read(body.clone(), || ())), memory);
    check(run(read(body, || ())), memory);
}

/// The usual way without a body that can be replayed.
fn collect_then_read(memory: &Bytes) {
    let body = run(Frames::new(memory).collect()).expect("the body has no errors");
    let body = Full::new(body.to_bytes());
    check(run(read(body.clone(), || ())), memory);
    check(run(read(body, || ())), memory);
}

/// Serves a body to a handler that reads it in both passes.
pub fn read_with_layer(memory: &Bytes) {
    serve(Frames::new(memory), memory, || ());
}

fn serve(body: Frames, memory: &Bytes, on_frame: impl Fn() + Clone) {
    let passes = AtomicUsize::new(0);
    let passes = &passes;
    let handler = service_fn(|request: Request<_>| {
        let on_frame = on_frame.clone();
        async move {
            let (parts, body) = request.into_parts();
            let promises = parts.extensions.get::<Promises>();
            let promises = promises.expect("`PromiseLayer` is around");
            check(read(body, on_frame).await, memory);
            passes.fetch_add(1, Ordering::Relaxed);
            let _: u64 = promises.result_or_submit("value", async || 7)?;
            Ok::<_, BoxError>(Response::<Full<Bytes>>::default())
        }
    });
    let layer = PromiseLayer::new().max_body_bytes(64 << 20);
    let response = run(layer.layer(handler).call(Request::new(body)));
    black_box(response.expect("the handler has no errors"));
    assert_eq!(passes.load(Ordering::Relaxed), 2);
}

/// The time until a handler has the first byte of a body, and the number of frames that the client has sent by then.
fn first_byte(memory: &Bytes, collects: bool) -> (Duration, usize) {
    let body = Frames::new(memory);
    let taken = Arc::clone(&body.taken);
    let first = Arc::new(Mutex::new(None));
    let start = Instant::now();
    let on_frame = || {
        let mut first = first.lock().expect("nothing panics");
        first.get_or_insert_with(|| (start.elapsed(), taken.load(Ordering::Relaxed)));
    };
    if collects {
        let body = run(body.collect()).expect("the body has no errors");
        check(run(read(Full::new(body.to_bytes()), on_frame)), memory);
    } else {
        serve(body, memory, on_frame);
    }
    let first = first.lock().expect("nothing panics");
    first.expect("the body has a frame")
}
