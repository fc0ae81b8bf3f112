//! Descriptions of metrics, and their comparison with the documentation.

use crate::recorded::families;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// The kind, the unit and the help text of a metric.
pub type Description = (&'static str, Unit, String);

/// Returns what a function describes, by name.
///
/// # Panics
///
/// Panics if a metric is described twice or has no unit.
pub fn described(describe: impl FnOnce()) -> BTreeMap<String, Description> {
    let described = Described::default();
    metrics::with_local_recorder(&described, describe);
    described.0.into_inner().unwrap()
}

/// A row of a table of metrics: the kind, the labels, and the values of a label in the description.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub kind: String,
    pub labels: Vec<String>,
    pub values: BTreeSet<String>,
}

/// Returns the rows of the table in the documentation of a module, by name.
#[must_use]
pub fn documented(code: &str) -> BTreeMap<String, Row> {
    let rows = code
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `tower_promises_"));
    rows.map(|row| {
        let row = row.trim_end_matches(" |");
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [name, kind, labels, description] = cells[..] else {
            panic!("{row} has four cells")
        };
        let name = format!("tower_promises_{}", name.trim_end_matches('`'));
        let row = Row {
            kind: kind.to_owned(),
            labels: quoted(labels).collect(),
            values: quoted(description).collect(),
        };
        (name, row)
    })
    .collect()
}

/// Returns the quoted words of a text.
fn quoted(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Checks that a module documents exactly the metrics that its function describes, with kinds, labels and their values,
/// and that names, units and help texts follow the conventions.
///
/// # Panics
///
/// Panics if they differ.
pub fn assert_is_documented(code: &str, describe: fn()) {
    let told = documented(code);
    let described = described(describe);
    let kinds = |(name, row): (&String, &Row)| (name.clone(), row.kind.clone());
    let told_kinds: BTreeMap<_, _> = told.iter().map(kinds).collect();
    let described_kinds = described
        .iter()
        .map(|(name, (kind, ..))| (name.clone(), (*kind).to_owned()));
    assert_eq!(told_kinds, described_kinds.collect());
    for (name, description) in &described {
        assert_is_conventional(name, description);
    }

    // Series whose labels have fixed values exist at once.
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, describe);
    let text = recorder.handle().render();
    for (name, (kind, labels)) in families(&text) {
        let row = &told[&name];
        assert_eq!((&row.kind, &row.labels), (&kind, &labels), "{name}");
        if let [label] = &labels[..] {
            let start = format!("{name}{{{label}=\"");
            let values = text.lines().filter_map(|line| line.strip_prefix(&start));
            let values = values.map(|rest| rest.split('"').next().unwrap().to_owned());
            assert_eq!(row.values, values.collect(), "{name}");
        }
    }
}

/// Checks the name, the unit and the help text of a metric.
///
/// # Panics
///
/// Panics if they do not follow the conventions.
pub fn assert_is_conventional(name: &str, (kind, unit, help): &Description) {
    assert!(
        help.ends_with('.') && help.len() > 10,
        "{name} has a help text"
    );
    assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
    let wanted = match () {
        () if name.ends_with("_seconds") => Unit::Seconds,
        () if name.ends_with("_bytes") => Unit::Bytes,
        () => Unit::Count,
    };
    assert_eq!(*unit, wanted, "{name}");
}

/// A recorder that stores the descriptions of metrics.
#[derive(Default)]
struct Described(Mutex<BTreeMap<String, Description>>);

impl Described {
    fn note(&self, kind: &'static str, name: &KeyName, unit: Option<Unit>, help: &SharedString) {
        let description = (kind, unit.unwrap(), help.to_string());
        let mut described = self.0.lock().unwrap();
        let former = described.insert(name.as_str().to_owned(), description);
        assert!(former.is_none(), "{} is described twice", name.as_str());
    }
}

impl Recorder for Described {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.note("counter", &name, unit, &help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.note("gauge", &name, unit, &help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.note("histogram", &name, unit, &help);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
