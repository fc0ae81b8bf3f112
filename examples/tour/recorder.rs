//! What the server does for a visit: spans and events of `tracing`, kept for the page that shows them.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit as VisitFields};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The number of visits that are kept. The oldest are forgotten first.
const MAX_VISITS: usize = 64;

/// The number of rows of a visit that are kept.
const MAX_ROWS: usize = 100;

/// The kind of a row for an event.
pub(crate) const NOTE: &str = "note";

/// Records the spans and events below a span with the field `visit`. Clones share the visits.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<VecDeque<Visit>>>);

/// A request of the tour. A durable request is one visit, however many runs it has.
struct Visit {
    id: u64,
    start: Instant,
    rows: Vec<Row>,
}

/// A span or an event. Times are relative to the start of the visit.
#[derive(Clone)]
pub(crate) struct Row {
    /// The name of the span, or [`NOTE`].
    pub(crate) kind: &'static str,
    pub(crate) text: String,
    pub(crate) begin: Duration,
    /// `None` for an event, and until the span has ended.
    pub(crate) took: Option<Duration>,
    /// Empty until the outcome is known.
    pub(crate) outcome: String,
}

impl Recorder {
    /// Begins a visit, or continues it.
    pub(crate) fn begin(&self, id: u64) {
        let mut visits = self.visits();
        if visits.iter().any(|visit| visit.id == id) {
            return;
        }
        if visits.len() == MAX_VISITS {
            visits.pop_front();
        }
        visits.push_back(Visit {
            id,
            start: Instant::now(),
            rows: Vec::new(),
        });
    }

    /// Ends a visit. Returns its rows in the order of their beginnings, and how long it took.
    pub(crate) fn end(&self, id: u64) -> (Vec<Row>, Duration) {
        let mut visits = self.visits();
        let place = visits.iter().position(|visit| visit.id == id);
        let Some(visit) = place.and_then(|place| visits.remove(place)) else {
            return (Vec::new(), Duration::ZERO);
        };
        let (mut rows, now) = (visit.rows, visit.start.elapsed());
        // The span of the last run is open, because its answer contains these rows.
        for row in rows.iter_mut().filter(|row| row.kind != NOTE) {
            row.took = row.took.or(Some(now.saturating_sub(row.begin)));
        }
        rows.sort_by_key(|row| row.begin);
        (rows, now)
    }

    /// Adds a row. Returns its place.
    fn add(&self, id: u64, kind: &'static str, fields: Fields) -> Option<usize> {
        let mut visits = self.visits();
        let visit = visits.iter_mut().find(|visit| visit.id == id)?;
        if visit.rows.len() == MAX_ROWS {
            return None;
        }
        visit.rows.push(Row {
            kind,
            text: fields.text,
            begin: visit.start.elapsed(),
            took: None,
            outcome: fields.outcome,
        });
        Some(visit.rows.len() - 1)
    }

    /// Changes a row. The function also gets the time since the start of the visit.
    fn change(&self, place: &Place, change: impl FnOnce(&mut Row, Duration)) {
        let mut visits = self.visits();
        let visit = visits.iter_mut().find(|visit| visit.id == place.visit);
        if let (Some(visit), Some(row)) = (visit, place.row) {
            let now = visit.start.elapsed();
            if let Some(row) = visit.rows.get_mut(row) {
                change(row, now);
            }
        }
    }

    fn visits(&self) -> MutexGuard<'_, VecDeque<Visit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The visit that a span belongs to, and its row.
struct Place {
    visit: u64,
    row: Option<usize>,
}

impl<S> Layer<S> for Recorder
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = span.parent();
        let above = parent.and_then(|parent| Some(parent.extensions().get::<Place>()?.visit));
        let Some(visit) = fields.visit.or(above) else {
            return;
        };
        let row = match span.name() {
            // The parents of the others.
            "visit" | "promises" => None,
            name => self.add(visit, name, fields),
        };
        span.extensions_mut().insert(Place { visit, row });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let extensions = span.extensions();
        let Some(place) = extensions.get::<Place>() else {
            return;
        };
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.change(place, |row, now| {
            if let Some(took) = fields.took {
                row.took = Some(took);
                // The span of the first pass opens at its end, when it is known that the request has promises.
                row.begin = row.begin.min(now.saturating_sub(took));
            }
            if !fields.outcome.is_empty() {
                row.outcome = fields.outcome;
            }
        });
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // Events of the library are in the log.
        if !event.metadata().target().starts_with("tour") {
            return;
        }
        let Some(span) = context.event_span(event) else {
            return;
        };
        if let Some(place) = span.extensions().get::<Place>() {
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.add(place.visit, NOTE, fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        if let Some(place) = span.extensions().get::<Place>() {
            self.change(place, |row, now| {
                row.took = row.took.or(Some(now.saturating_sub(row.begin)));
            });
        }
    }
}

/// The fields that the page shows.
#[derive(Default)]
struct Fields {
    visit: Option<u64>,
    text: String,
    outcome: String,
    took: Option<Duration>,
}

impl VisitFields for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "visit" => self.visit = Some(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "duration_ms" {
            self.took = Duration::try_from_secs_f64(value / 1e3).ok();
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "outcome" => self.outcome = value.to_owned(),
            // The pass of a promise is visible by its place.
            "key" | "name" => self.text = value.to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "attempt" | "message" => self.text = format!("{value:?}"),
            "pass" if self.text.is_empty() => self.text = format!("{value:?}"),
            _ => {}
        }
    }
}
