//! Recorders of any kind get what they record.

use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use test_support::recorded::ask_for;
use tokio::runtime;
use tower_promises::PromiseLayer;

/// A recorder without state of its own and without gauges and histograms, as that of the facade, but with counters.
struct CountersOnly;

struct Counted(String);

static COUNTS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

impl CounterFn for Counted {
    fn increment(&self, value: u64) {
        *COUNTS.lock().unwrap().entry(self.0.clone()).or_default() += value;
    }

    fn absolute(&self, value: u64) {
        COUNTS.lock().unwrap().insert(self.0.clone(), value);
    }
}

impl Recorder for CountersOnly {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let values = key.labels().map(metrics::Label::value);
        let name = [key.name()].into_iter().chain(values).collect::<Vec<_>>();
        Counter::from_arc(Arc::new(Counted(name.join(" "))))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn a_recorder_without_size_gets_its_counts() {
    assert_eq!(size_of::<CountersOnly>(), 0);
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    metrics::with_local_recorder(&CountersOnly, || {
        runtime.unwrap().block_on(async {
            ask_for(PromiseLayer::new(), async || ()).await;
        });
    });
    let mut counts = COUNTS.lock().unwrap().clone();
    counts.retain(|_, count| *count > 0);
    let counts: Vec<_> = counts.into_iter().collect();
    let expected = [
        ("tower_promises_passes_total discarded", 1),
        ("tower_promises_passes_total published", 1),
        ("tower_promises_promises_total fulfilled", 1),
    ];
    assert_eq!(
        counts,
        expected.map(|(name, count)| (name.to_owned(), count))
    );
}
