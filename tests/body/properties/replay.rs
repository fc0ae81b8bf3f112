//! A model of `ReplayBody` for arbitrary frames and readers. The property tests and the fuzz target share it.

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tower_promises::BoxError;
use tower_promises::body::{ReplayBody, ReplayError};

#[derive(Clone, Debug)]
pub enum Step {
    Data(Vec<u8>),
    Trailers,
    Error,
    Pending,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub steps: Vec<Step>,
    /// Whether the body has an exact size hint and reports its end.
    pub is_sized: bool,
    pub limit: usize,
    /// The number of frames that each reader reads. One more reader, the last, reads all frames.
    pub reads: Vec<usize>,
}

/// The tokens that a reader has got: bytes, and the two markers below.
type Content = Vec<u16>;
const TRAILERS: u16 = 256;
const ERROR: u16 = 257;
const TRAILERS_SIZE: usize = "checksumabc".len();
/// With a spool, trailers may take this much memory beyond the limit.
const TRAILERS_BEYOND_MEMORY: usize = 64 * 1024;
/// How much is kept of a body whose size hint exceeds the limits.
const BEGINNING: usize = 64 * 1024;

#[derive(Debug)]
pub struct ScriptError;

impl std::fmt::Display for ScriptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the script says so")
    }
}

impl Error for ScriptError {}

pub struct ScriptBody {
    steps: VecDeque<Step>,
    is_sized: bool,
}

impl Body for ScriptBody {
    type Data = Bytes;
    type Error = ScriptError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ScriptError>>> {
        Poll::Ready(match self.steps.pop_front() {
            Some(Step::Data(data)) => Some(Ok(Frame::data(data.into()))),
            Some(Step::Trailers) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("checksum", HeaderValue::from_static("abc"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Some(Step::Error) => Some(Err(ScriptError)),
            Some(Step::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_sized && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.is_sized {
            return SizeHint::default();
        }
        let data = self.steps.iter().map_while(|step| match step {
            Step::Data(data) => Some(data.len()),
            Step::Error => None,
            _ => Some(0),
        });
        SizeHint::with_exact(data.sum::<usize>() as u64)
    }
}

/// Whether the size hint of the body exceeds the limits from the start.
fn is_declared_too_large(script: &Script, spool: Option<usize>) -> bool {
    let body = ScriptBody {
        steps: script.steps.clone().into(),
        is_sized: script.is_sized,
    };
    let limit = script.limit.saturating_add(spool.unwrap_or(0));
    body.size_hint().lower() > limit as u64
}

/// The tokens of the script, and for each number of read tokens whether all of them are kept. `spool` is the limit of
/// the file in bytes.
fn expected(script: &Script, spool: Option<usize>) -> (Content, Vec<bool>) {
    // Only the beginning of such a body is kept, and none of it in the file.
    let is_declared_too_large = is_declared_too_large(script, spool);
    let (limit_of_data, spool_of_data) = match is_declared_too_large {
        true => (script.limit.min(BEGINNING), None),
        false => (script.limit, spool),
    };
    let (mut content, mut kept) = (Vec::new(), vec![true]);
    let (mut memory, mut file, mut fits) = (0_usize, 0_usize, true);
    for step in &script.steps {
        match step {
            Step::Data(data) if file == 0 && memory + data.len() <= limit_of_data => {
                memory += data.len();
            }
            // After the first data in the file, all further data goes to the file.
            Step::Data(data) => {
                file += data.len();
                fits &= data.is_empty() || spool_of_data.is_some_and(|spool| file <= spool);
            }
            Step::Trailers => {
                memory += TRAILERS_SIZE;
                let beyond = spool.map_or(0, |_| TRAILERS_BEYOND_MEMORY);
                fits &= memory <= script.limit.saturating_add(beyond);
            }
            Step::Error | Step::Pending => {}
        }
        match step {
            Step::Data(data) => content.extend(data.iter().copied().map(u16::from)),
            Step::Trailers => content.push(TRAILERS),
            Step::Error => content.push(ERROR),
            Step::Pending => {}
        }
        kept.resize(content.len() + 1, fits);
        if let Step::Error = step {
            break;
        }
    }
    (content, kept)
}

struct Reader {
    body: ReplayBody<ScriptBody>,
    content: Content,
    has_ended: bool,
}

/// Wakes the thread that reads.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// How long another thread may take before it wakes the reader.
const PATIENCE: Duration = Duration::from_secs(120);

impl Reader {
    fn frame(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(&mut cx) {
                return frame;
            }
            // The body may be waiting for a blocking thread.
            let start = Instant::now();
            thread::park_timeout(PATIENCE);
            assert!(start.elapsed() < PATIENCE, "the body wakes its reader");
        }
    }

    /// Reads one frame and records its tokens.
    fn read(&mut self) {
        match self.frame() {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) => {
                    while data.has_remaining() {
                        self.content.push(u16::from(data.get_u8()));
                    }
                }
                Err(frame) => {
                    assert_eq!(frame.into_trailers().expect("trailers")["checksum"], "abc");
                    self.content.push(TRAILERS);
                }
            },
            Some(Err(error)) => {
                let error = error.downcast::<ReplayError>().expect("a replay error");
                let source = error.source().expect("the body's own error");
                assert!(source.is::<ScriptError>());
                self.content.push(ERROR);
            }
            None => self.has_ended = true,
        }
    }

    fn check(&self, expected: &Content, script: &Script) {
        assert!(expected.starts_with(&self.content), "{:?}", self.content);
        let rest = &expected[self.content.len()..];
        let bytes = rest.iter().filter(|token| **token < TRAILERS).count() as u64;
        let hint = self.body.size_hint();
        assert!(hint.lower() <= bytes, "{hint:?} of {bytes}");
        assert!(
            hint.upper().is_none_or(|upper| upper >= bytes),
            "{hint:?} of {bytes}"
        );
        if script.is_sized {
            assert_eq!(hint.exact(), Some(bytes));
        }
        if self.body.is_end_stream() {
            assert!(rest.is_empty(), "the end comes before {rest:?}");
        }
        if self.has_ended {
            assert!(rest.is_empty(), "the body has ended before {rest:?}");
            assert!(self.body.is_end_stream());
        }
    }
}

/// Checks a body that is kept only in memory.
pub fn check(script: &Script) {
    check_with(script, None, |body| {
        ReplayBody::with_max_bytes(body, script.limit)
    });
}

/// Checks a body wrapped by `wrap`, which keeps `script.limit` bytes in memory and, if there is a spool,
/// `spool` bytes in a file.
pub fn check_with(
    script: &Script,
    spool: Option<usize>,
    wrap: impl FnOnce(ScriptBody) -> ReplayBody<ScriptBody>,
) {
    let (expected, kept) = expected(script, spool);
    let first = wrap(ScriptBody {
        steps: script.steps.clone().into(),
        is_sized: script.is_sized,
    });
    let is_empty = script.is_sized && script.steps.is_empty();
    // What the reader that went furthest has taken out of the original body.
    let mut furthest = 0;
    let mut former: Option<Reader> = None;
    let last = usize::MAX;
    for frames in script.reads.iter().copied().chain([last]) {
        let mut reader = Reader {
            body: first.replay(),
            content: Vec::new(),
            has_ended: false,
        };
        let is_replayable = kept[furthest];
        assert_eq!(reader.body.is_replayable(), is_replayable);
        if !is_replayable {
            let error = reader.frame().expect("an error").expect_err("an error");
            let error = error.downcast_ref::<ReplayError>();
            assert!(
                matches!(error, Some(ReplayError::TooLarge { .. })),
                "{error:?}"
            );
            assert!(reader.frame().is_none());
            assert!(reader.body.is_end_stream());
            // The present reader still gets the whole body.
            if let Some(mut former) = former.take() {
                while !former.has_ended {
                    former.read();
                }
                assert_eq!(former.content, expected);
            }
            return;
        }
        reader.check(&expected, script);
        for _ in 0..frames {
            if reader.has_ended {
                break;
            }
            reader.read();
            furthest = furthest.max(reader.content.len());
            if kept[furthest] {
                reader.check(&expected, script);
            }
            if let Some(mut former) = former.take() {
                assert!(!former.body.is_end_stream());
                let error = former.frame().expect("an error").expect_err("an error");
                let error = error.downcast_ref::<ReplayError>();
                assert!(matches!(error, Some(ReplayError::Superseded)), "{error:?}");
                assert!(former.frame().is_none());
                assert!(former.body.is_end_stream());
            }
        }
        if frames == last {
            assert_eq!(reader.content, expected);
        }
        // A reader that has not polled has not taken over, and the readers of an empty body do not supersede each
        // other.
        if frames > 0 && !is_empty {
            former = Some(reader);
        }
    }
}
