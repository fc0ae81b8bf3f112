//! The spans of a test as a tree.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

thread_local! {
    static TREE: RefCell<Option<SpanTree>> = const { RefCell::new(None) };
}

/// The spans that this thread opens, and their descendants from other threads.
#[derive(Clone, Debug, Default)]
pub struct SpanTree {
    spans: Arc<Mutex<Vec<Span>>>,
}

#[derive(Debug)]
struct Span {
    name: &'static str,
    parent: Option<usize>,
    fields: Vec<(&'static str, String)>,
}

impl SpanTree {
    /// Starts with an empty tree.
    pub fn record() -> Self {
        super::subscribe();
        let tree = Self::default();
        TREE.set(Some(tree.clone()));
        tree
    }

    /// Returns one line for each span. Durations are left out, because they vary.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in self.text_with_times().split_inclusive('\n') {
            match line.split_once("duration_ms=") {
                Some((before, _)) => text.extend([before, "duration_ms=…\n"]),
                None => text.push_str(line),
            }
        }
        text
    }

    pub fn text_with_times(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, None, 0);
        text
    }

    fn write(&self, text: &mut String, parent: Option<usize>, depth: usize) {
        let count = self.spans.lock().unwrap().len();
        for index in 0..count {
            let spans = self.spans.lock().unwrap();
            let span = &spans[index];
            if span.parent == parent {
                write!(text, "{:width$}{}", "", span.name, width = depth * 2).unwrap();
                for (name, value) in &span.fields {
                    write!(text, " {name}={value}").unwrap();
                }
                text.push('\n');
                drop(spans);
                self.write(text, Some(index), depth + 1);
            }
        }
    }
}

/// The position of a span in its tree.
struct Place {
    tree: SpanTree,
    index: usize,
}

/// Records the spans of all threads.
pub(super) struct Recorder;

impl<S> Layer<S> for Recorder
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let above = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            let place: &Place = extensions.get()?;
            Some((place.tree.clone(), place.index))
        });
        let (tree, parent) = match above {
            Some((tree, index)) => (tree, Some(index)),
            None => match TREE.with_borrow(Clone::clone) {
                Some(tree) => (tree, None),
                None => return,
            },
        };
        let mut fields = Fields(Vec::new());
        attributes.record(&mut fields);
        let index = {
            let mut spans = tree.spans.lock().unwrap();
            spans.push(Span {
                name: attributes.metadata().name(),
                parent,
                fields: fields.0,
            });
            spans.len() - 1
        };
        span.extensions_mut().insert(Place { tree, index });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let extensions = span.extensions();
        if let Some(Place { tree, index }) = extensions.get() {
            let mut fields = Fields(Vec::new());
            values.record(&mut fields);
            tree.spans.lock().unwrap()[*index].fields.extend(fields.0);
        }
    }
}

struct Fields(Vec<(&'static str, String)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}
