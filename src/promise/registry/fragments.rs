use super::super::Key;
use super::super::fragment_error::FragmentError;
use super::{Aftermath, Demand, Entry, Ledger, Reader, Registry, State};
use crate::BoxError;
use std::mem;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

/// The number of a fragment in its pass.
pub(crate) type FragmentNumber = NonZeroU32;

/// Renders a fragment for a reader.
pub(crate) type Render = Box<dyn Fn(&Arc<Registry>, Reader) -> Result<String, BoxError> + Send>;

/// Returns what a page shows in place of a fragment that failed.
pub(crate) type OnFragmentError = Arc<dyn Fn(&FragmentError) -> String + Send + Sync>;

/// The settings for fragments.
#[derive(Clone)]
pub(crate) struct FragmentSettings {
    pub(crate) max_fragments: usize,
    /// `None` shows nothing.
    pub(crate) on_error: Option<OnFragmentError>,
}

/// The fragments of a pass.
#[derive(Default)]
pub(super) struct Fragments {
    /// The number of fragments so far.
    last: u32,
    /// The fragments that are being rendered.
    open: Vec<OpenFragment>,
    /// The fragments that wait for promises, in the order of the page.
    pending: Vec<PendingFragment>,
}

struct OpenFragment {
    number: FragmentNumber,
    parent: Option<FragmentNumber>,
    /// Whether the page is incomplete without the promises that the fragment waits for.
    is_required: bool,
    /// Whether the output may contain pending fragments.
    has_inner: bool,
    /// The places of the promises that the fragment waits for.
    waits: Vec<usize>,
}

/// A fragment that is about to be rendered.
pub(crate) struct Opened {
    pub(crate) number: FragmentNumber,
    /// Whether the fragment may stay pending when the response is published.
    pub(crate) may_stream: bool,
}

/// A fragment that waits for promises.
pub(crate) struct PendingFragment {
    pub(crate) number: FragmentNumber,
    pub(crate) name: Key,
    pub(crate) render: Render,
    /// The number of times that the fragment was rendered.
    pub(crate) renders: usize,
    /// The places of the promises that the fragment waits for.
    pub(crate) waits: Vec<usize>,
    /// The fragment whose output contains this fragment.
    pub(crate) parent: Option<FragmentNumber>,
}

/// Access for fragments.
impl Registry {
    pub(crate) fn on_fragment_error(&self) -> Option<&OnFragmentError> {
        self.settings.fragments.as_ref()?.on_error.as_ref()
    }

    /// Whether a fragment is being rendered.
    pub(in crate::promise) fn is_rendering(&self) -> bool {
        self.rendering.load(Ordering::Relaxed) > 0
    }

    /// Begins to render a fragment. The places of the promises that it misses are noted until
    /// [`close_fragment`](Self::close_fragment). `None` if the pass is over.
    ///
    /// A pending fragment that is rendered again keeps its number.
    pub(crate) fn open_fragment(
        &self,
        reader: Reader,
        number: Option<FragmentNumber>,
    ) -> Option<Opened> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if !state.is_running(reader.pass) && !state.is_streaming_pass(reader.pass) {
            return None;
        }
        let settings = self.settings.fragments.as_ref();
        let max_fragments = settings.map_or(usize::MAX, |settings| settings.max_fragments);
        let may_stream = state.may_stream;
        let fragments = &mut state.ledger().more().fragments;
        let may_stream = may_stream
            && (number.is_some() || fragments.pending.len() + fragments.open.len() < max_fragments);
        let number = match number {
            Some(number) => number,
            None => {
                fragments.last = fragments.last.saturating_add(1);
                FragmentNumber::new(fragments.last)?
            }
        };
        self.rendering.fetch_add(1, Ordering::Relaxed);
        fragments.open.push(OpenFragment {
            number,
            parent: reader.fragment,
            is_required: !may_stream,
            has_inner: false,
            waits: Vec::new(),
        });
        Some(Opened { number, may_stream })
    }

    /// Ends the rendering of a fragment, which may have failed. Returns the places of the promises that the fragment has
    /// missed.
    pub(crate) fn close_fragment(&self, number: FragmentNumber, has_failed: bool) -> Vec<usize> {
        self.rendering.fetch_sub(1, Ordering::Relaxed);
        // Dropped after the lock is released, because a render function is user code.
        let _superseded: Vec<PendingFragment>;
        let mut state = self.state.lock();
        let Some(fragments) = state.fragments_mut() else {
            return Vec::new();
        };
        let is_it = |open: &OpenFragment| open.number == number;
        let Some(position) = fragments.open.iter().rposition(is_it) else {
            return Vec::new();
        };
        let open = fragments.open.remove(position);
        if open.has_inner {
            let is_inner = |pending: &PendingFragment| pending.parent == Some(number);
            if open.waits.is_empty() && !has_failed {
                for pending in fragments.pending.iter_mut().filter(|it| is_inner(it)) {
                    pending.parent = open.parent;
                }
                fragments.note_inner(open.parent);
            } else {
                // The output is not used, so the fragments inside of it are not part of the page.
                let pending = mem::take(&mut fragments.pending);
                (_superseded, fragments.pending) = pending.into_iter().partition(is_inner);
            }
        }
        if open.is_required {
            if let Some(outer) = fragments.open(open.parent) {
                outer.waits.extend_from_slice(&open.waits);
            }
        }
        open.waits
    }

    /// Keeps a fragment until its promises have settled.
    pub(crate) fn keep_fragment(&self, fragment: PendingFragment) {
        let mut state = self.state.lock();
        let Some(ledger) = &mut state.ledger else {
            // Dropped after the lock is released, because a render function is user code.
            drop(state);
            return;
        };
        // The promises of a fragment that another thread renders may settle before the fragment is here.
        let is_ready = ledger.are_over(&fragment.waits);
        let fragments = &mut ledger.more().fragments;
        fragments.note_inner(fragment.parent);
        fragments.pending.push(fragment);
        let driver = match is_ready {
            true => state.driver.take(),
            false => None,
        };
        drop(state);
        driver.into_iter().for_each(Waker::wake);
    }

    /// Drops pending fragments. Returns their number.
    pub(crate) fn remove_fragments(&self, numbers: &[FragmentNumber]) -> usize {
        // Dropped after the lock is released, because a render function is user code.
        let removed: Vec<PendingFragment>;
        {
            let mut state = self.state.lock();
            let Some(fragments) = state.fragments_mut() else {
                return 0;
            };
            let pending = mem::take(&mut fragments.pending).into_iter();
            (removed, fragments.pending) = pending.partition(|it| numbers.contains(&it.number));
        }
        removed.len()
    }

    /// Notes that an error of a fragment is reported. `false` if the same error was reported already, as errors are that
    /// occur in several passes.
    pub(crate) fn report_fragment(&self, name: &Key, text: String) -> bool {
        let mut state = self.state.lock();
        if state.has_ended() {
            return true;
        }
        let reported = &mut state.ledger().more().reported;
        let is_it = |(key, known): &(Key, String)| key == name && *known == text;
        let is_new = !reported.iter().any(is_it);
        if is_new {
            reported.push((name.clone(), text));
        }
        is_new
    }

    /// Whether a fragment waits for promises.
    pub(in crate::promise) fn has_fragments(&self) -> bool {
        let state = self.state.lock();
        let ledger = state.ledger.as_ref();
        ledger.is_some_and(Ledger::has_fragments)
    }

    /// Takes a fragment whose promises have settled.
    pub(crate) fn take_ready_fragment(&self) -> Option<PendingFragment> {
        let mut state = self.state.lock();
        let ledger = state.ledger.as_mut()?;
        let (entries, fragments) = (&ledger.entries, &mut ledger.more.as_mut()?.fragments);
        let is_over = |place: &usize| entries.get(*place).is_none_or(Entry::is_settled);
        let position = fragments.pending.iter_mut().position(|pending| {
            while pending.waits.last().is_some_and(is_over) {
                pending.waits.pop();
            }
            pending.waits.is_empty()
        });
        Some(fragments.pending.remove(position?))
    }

    /// Whether the promises of a fragment have settled.
    pub(in crate::promise) fn has_ready_fragment(&self) -> bool {
        let state = self.state.lock();
        let Some(ledger) = &state.ledger else {
            return false;
        };
        let mut pending = ledger.pending_fragments().iter();
        pending.any(|pending| ledger.are_over(&pending.waits))
    }

    /// The numbers and names of the fragments that wait for promises.
    pub(crate) fn pending_fragments(&self) -> Vec<(FragmentNumber, Key)> {
        let state = self.state.lock();
        let pending = state.ledger.iter().flat_map(Ledger::pending_fragments);
        pending.map(|it| (it.number, it.name.clone())).collect()
    }

    /// Begins to stream the pending fragments of a response that is published. Drops promises that only code outside of
    /// fragments needs.
    pub(in crate::promise) fn begin_stream(&self) {
        // Undo functions and promises are user code. They are dropped with these variables, after the lock is released.
        let mut _undo = Vec::new();
        let mut _entries = Vec::new();
        let mut cancelled = Vec::new();
        {
            let mut state = self.state.lock();
            state.is_settling = true;
            state.is_streaming = true;
            for place in state.unneeded() {
                cancelled.extend(state.cancel(place));
                _entries.extend(state.remove(place));
            }
            if let Some(more) = state.ledger.as_mut().and_then(|it| it.more.as_mut()) {
                _undo = mem::take(&mut more.undo);
            }
        }
        cancelled.into_iter().for_each(Aftermath::finish);
    }

    /// Lets the pending fragments require a further pass, because their response cannot stream. No later pass streams.
    pub(in crate::promise) fn require_fragments(&self) {
        let _pending;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.may_stream = false;
        let Some(fragments) = state.fragments_mut() else {
            return;
        };
        let pending = mem::take(&mut fragments.pending);
        for place in pending.iter().flat_map(|pending| &pending.waits) {
            if let Some(entry) = state.at(*place) {
                entry.demand = Demand::Missed;
            }
        }
        _pending = pending;
    }

    /// Whether a promise is running that the next pass needs. Promises that only fragments need do not delay a pass.
    pub(in crate::promise) fn is_awaited(&self) -> bool {
        if !self.settings.may_stream {
            return true;
        }
        let state = self.state.lock();
        if !state.may_stream {
            return true;
        }
        let mut entries = state.ledger.iter().flat_map(|ledger| ledger.entries.iter());
        entries.any(|entry| entry.demand.requires_pass() && !entry.is_settled())
    }
}

impl State {
    fn fragments_mut(&mut self) -> Option<&mut Fragments> {
        Some(&mut self.ledger.as_mut()?.more.as_mut()?.fragments)
    }

    /// The places of pending promises that only code outside of fragments needs. There are none, unless the handler has
    /// called `publish`.
    fn unneeded(&self) -> Vec<usize> {
        let Some(ledger) = &self.ledger else {
            return Vec::new();
        };
        let mut places: Vec<_> = (0..ledger.entries.places()).collect();
        places.retain(|place| {
            let entry = ledger.entries.get(*place);
            entry.is_some_and(|it| it.demand.requires_pass() && it.waiters == 0 && !it.is_settled())
        });
        for pending in ledger.pending_fragments() {
            places.retain(|place| !pending.waits.contains(place));
        }
        places
    }

    /// Whether the response of this pass was published, and its fragments follow.
    fn is_streaming_pass(&self, pass: u32) -> bool {
        self.is_streaming && self.is_current(pass)
    }

    /// Whether a value that the reader misses requires another pass.
    pub(super) fn is_required_by(&self, reader: Reader) -> bool {
        let Some(number) = reader.fragment else {
            return true;
        };
        let more = self.ledger.as_ref().and_then(|it| it.more.as_ref());
        let mut open = more.iter().flat_map(|more| &more.fragments.open);
        let open = open.find(|open| open.number == number);
        open.map_or(!self.may_stream, |open| open.is_required)
    }

    /// Notes that a fragment waits for the promise at this place.
    #[cold]
    pub(super) fn note_wait(&mut self, reader: Reader, place: usize) {
        let fragments = self.fragments_mut();
        if let Some(open) = fragments.and_then(|it| it.open(reader.fragment)) {
            if !open.waits.contains(&place) {
                open.waits.push(place);
            }
        }
    }
}

impl Ledger {
    /// The fragments that wait for promises.
    fn pending_fragments(&self) -> &[PendingFragment] {
        let more = self.more.as_ref();
        more.map_or(&[], |more| &more.fragments.pending)
    }

    pub(super) fn has_fragments(&self) -> bool {
        !self.pending_fragments().is_empty()
    }

    /// Whether these promises have settled, or do not exist any more.
    fn are_over(&self, places: &[usize]) -> bool {
        places.iter().all(|place| {
            let entry = self.entries.get(*place);
            entry.is_none_or(Entry::is_settled)
        })
    }
}

impl Fragments {
    /// The fragment with this number, if it is being rendered.
    fn open(&mut self, number: Option<FragmentNumber>) -> Option<&mut OpenFragment> {
        let number = number?;
        self.open.iter_mut().rfind(|open| open.number == number)
    }

    /// Notes that the output of a fragment may contain pending fragments.
    fn note_inner(&mut self, outer: Option<FragmentNumber>) {
        if let Some(outer) = self.open(outer) {
            outer.has_inner = true;
        }
    }
}
