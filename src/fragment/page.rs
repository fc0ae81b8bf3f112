use super::observe;
use super::rendering::{Output, Rendering};
use super::shell::{Fault, PREFIX, START, Shell};
use crate::promise::registry::FragmentNumber;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use std::fmt::Write;
use std::task::{Context, Poll, ready};

/// No tags around a fragment are longer.
const MAX_TAGS: usize = 48;

/// A page whose fragments follow.
pub(super) struct Page {
    rendering: Rendering,
    shell: Shell,
    state: State,
    trailers: Option<HeaderMap>,
    /// Whether the status is that of a success.
    is_success: bool,
}

#[derive(PartialEq)]
enum State {
    /// The response body of the inner service is being read.
    Shell,
    /// The fragments follow.
    Fragments,
    /// The trailers follow.
    Trailers,
    Ended,
}

impl Page {
    pub(super) fn new(rendering: Rendering, status: StatusCode) -> Self {
        Self {
            shell: Shell::new(rendering.pending()),
            rendering,
            state: State::Shell,
            trailers: None,
            is_success: status.is_success(),
        }
    }

    /// Renders fragments into the page that has not begun. Ready when no fragment is pending, or when no more fragments
    /// may be rendered before the client reads.
    pub(super) fn poll_inline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.rendering.is_complete() {
            let outputs = ready!(self.rendering.poll_outputs(cx));
            for Output { number, name, html } in outputs {
                self.shell.insert(number, name, html);
            }
            for (number, name) in self.rendering.pending() {
                self.shell.expect(number, name);
            }
            if self.shell.inserted_bytes() >= self.rendering.settings().max_buffered_bytes {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Begins the response.
    pub(super) fn begin(&mut self) {
        self.rendering.watch();
    }

    /// Whether all fragments are part of the page.
    pub(super) fn is_complete(&self) -> bool {
        self.rendering.is_complete()
    }

    /// Whether the response body of the inner service has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state != State::Shell
    }

    /// Adds a part of the response body of the inner service. Returns what can be sent.
    pub(super) fn push(&mut self, data: Bytes) -> Bytes {
        self.shell.push(data)
    }

    pub(super) fn push_trailers(&mut self, trailers: HeaderMap) {
        self.trailers.get_or_insert_default().extend(trailers);
    }

    /// Ends the response body of the inner service. Returns what can be sent, which excludes the closing tags.
    pub(super) fn end(&mut self) -> Bytes {
        self.state = State::Fragments;
        let data = self.shell.end();
        let mut missing = Vec::new();
        for (number, name, fault) in self.shell.faults() {
            if fault == Fault::Missing {
                missing.push(number);
            }
            // The page of an error often leaves out what its handler has created before the error was known.
            if fault != Fault::Missing || self.is_success {
                observe::misplaced(name, fault);
            }
        }
        self.rendering.leave_out(&missing);
        let misplaced = self.shell.take_misplaced();
        let script = self.rendering.settings().script.as_ref();
        let script = script.filter(|_| !self.is_complete());
        if misplaced.is_empty() && script.is_none() {
            return data;
        }
        let mut data = BytesMut::from(data);
        for (number, html) in misplaced {
            write_template(number, &html, &mut data);
        }
        data.extend_from_slice(script.map_or(b"", |script| script.as_bytes()));
        data.freeze()
    }

    /// Drops what is pending, because the response body of the inner service has failed.
    pub(super) fn abort(&mut self) {
        self.rendering.abort();
        self.state = State::Ended;
    }

    /// Runs the promises.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.rendering.drive(cx);
    }

    /// The next frame after the response body of the inner service.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            match self.state {
                State::Shell | State::Ended => return Poll::Ready(None),
                State::Fragments => {
                    let outputs = match self.rendering.is_complete() {
                        true => Vec::new(),
                        false => ready!(self.rendering.poll_outputs(cx)),
                    };
                    let lengths = outputs.iter().map(|output| output.html.len() + MAX_TAGS);
                    let mut data = BytesMut::with_capacity(lengths.sum());
                    self.check_inner(&outputs);
                    for output in &outputs {
                        write_template(output.number, &output.html, &mut data);
                    }
                    if self.rendering.is_complete() {
                        data.put(self.shell.closing_tags());
                        self.state = State::Trailers;
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Frame::data(data.freeze())));
                    }
                }
                State::Trailers => {
                    self.state = State::Ended;
                    if let Some(trailers) = self.trailers.take() {
                        return Poll::Ready(Some(Frame::trailers(trailers)));
                    }
                }
            }
        }
    }

    /// Reports fragments inside of others that cannot replace their fallbacks.
    fn check_inner(&self, outputs: &[Output]) {
        for output in outputs.iter().filter(|it| it.html.contains(START)) {
            let rendered = outputs.iter().map(|it| (it.number, it.name.clone()));
            let pending = self.rendering.pending().into_iter();
            let mut shell = Shell::new(pending.chain(rendered).collect());
            shell.push(Bytes::copy_from_slice(output.html.as_bytes()));
            shell.end();
            let faults = shell.faults().filter(|it| it.2 != Fault::Missing);
            faults.for_each(|(_, name, fault)| observe::misplaced(name, fault));
        }
    }

    /// Whether there are no more frames.
    pub(super) fn is_end_stream(&self) -> bool {
        match self.state {
            State::Shell | State::Fragments => false,
            State::Trailers => self.trailers.is_none(),
            State::Ended => true,
        }
    }
}

fn write_template(number: FragmentNumber, html: &str, data: &mut BytesMut) {
    // Writing to memory does not fail.
    let _ = writeln!(data, "<template for=\"{PREFIX}{number}\">{html}</template>");
}
