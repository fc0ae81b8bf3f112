//! Access to the values that a recorder of `metrics` has received.

use crate::ask;
use crate::eventually::until;
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use tokio::sync::MutexGuard;
use tower_promises::{PromiseLayer, Promises};

/// The changes of metrics since the start of a test. The process has one recorder, so tests take turns.
pub struct Recorded {
    pub handle: &'static PrometheusHandle,
    before: BTreeMap<String, f64>,
    _turn: MutexGuard<'static, ()>,
}

impl Recorded {
    pub async fn start() -> Self {
        static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

        let turn = TURN.lock().await;
        let handle = HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap());
        Self {
            handle,
            before: series(handle),
            _turn: turn,
        }
    }

    /// Ignores changes before this call.
    pub fn restart(&mut self) {
        self.before = series(self.handle);
    }

    /// Returns the series that end with `suffix` and have changed, with their differences.
    pub fn changes(&self, suffix: &str) -> Vec<String> {
        let mut changes = Vec::new();
        for (name, value) in series(self.handle) {
            let change = value - self.before.get(&name).unwrap_or(&0.0);
            // Sums of seconds are not exact.
            let change = (change * 1000.0).round() / 1000.0;
            let family = name.split('{').next().unwrap();
            if family.ends_with(suffix) && change != 0.0 {
                let name = name.strip_prefix("tower_promises_").unwrap();
                changes.push(format!("{name} {change}"));
            }
        }
        changes
    }

    /// Returns the counters that have changed, with their differences.
    pub fn counters(&self) -> Vec<String> {
        self.changes("_total")
    }

    pub fn gauge(&self, name: &str) -> f64 {
        let name = format!("tower_promises_{name}");
        *series(self.handle).get(&name).unwrap_or(&0.0)
    }

    /// Waits until a gauge has this value.
    pub async fn shows(&self, gauge: &str, value: f64) {
        let what = format!("{gauge} is {value}:");
        until(&what, async || self.gauge(gauge) == value).await;
    }

    /// Waits until all gauges are zero.
    pub async fn is_idle(&self) {
        for gauge in GAUGES {
            self.shows(gauge, 0.0).await;
        }
    }
}

pub const GAUGES: [&str; 5] = [
    "requests_in_flight",
    "promises_in_flight",
    "blocking_queue_depth",
    "blocking_jobs_in_flight",
    "replay_bytes",
];

/// The values that a recorder of this thread has received. Other tests of the process do not change them. Needs a
/// runtime with one thread.
pub struct RecordedHere {
    pub handle: PrometheusHandle,
    _guard: LocalRecorderGuard<'static>,
}

impl RecordedHere {
    #[must_use]
    pub fn start() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        Self {
            handle: recorder.handle(),
            _guard: metrics::set_default_local_recorder(recorder),
        }
    }

    /// Returns the value of a series, zero if it has none.
    #[must_use]
    pub fn value(&self, series_name: &str) -> f64 {
        let name = format!("tower_promises_{series_name}");
        *series(&self.handle).get(&name).unwrap_or(&0.0)
    }

    /// Returns the series of the families that begin with `prefix` and are not zero. Of histograms, returns the
    /// counts.
    #[must_use]
    pub fn values(&self, prefix: &str) -> Vec<String> {
        let mut values = Vec::new();
        for (name, value) in series(&self.handle) {
            let name = name.strip_prefix("tower_promises_").unwrap();
            let family = name.split('{').next().unwrap();
            let is_time = family.ends_with("_seconds") || family.ends_with("_seconds_sum");
            if name.starts_with(prefix) && !is_time && value != 0.0 {
                values.push(format!("{name} {value}"));
            }
        }
        values
    }

    /// Returns the names of all families, with their kinds and the names of their labels.
    #[must_use]
    pub fn families(&self) -> BTreeMap<String, (String, Vec<String>)> {
        families(&self.handle.render())
    }
}

/// Returns the families of a text for Prometheus, with their kinds and the names of their labels.
///
/// # Panics
///
/// Panics if the text is malformed.
#[must_use]
pub fn families(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut families = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(found) = line.strip_prefix("# TYPE ") {
            let (name, kind) = found.split_once(' ').unwrap();
            // Prometheus exports a histogram without buckets as a summary.
            let kind = kind.replace("summary", "histogram");
            families.insert(name.to_owned(), (kind, Vec::new()));
            name.clone_into(&mut family);
        } else if !line.starts_with('#') && line.contains('{') {
            let (_, labels) = line.split_once('{').unwrap();
            let (labels, _) = labels.rsplit_once("\"} ").unwrap();
            let labels = labels
                .split("\",")
                .map(|label| label.split("=\"").next().unwrap());
            let labels = labels.filter(|label| !["quantile", "le"].contains(label));
            families.get_mut(&family).unwrap().1 = labels.map(str::to_owned).collect();
        }
    }
    families
}

/// Whether a metric is one of `PromiseLayer` and `FragmentLayer`, not of another package.
#[must_use]
pub fn is_of_promises(name: &str) -> bool {
    let others = [
        "durable",
        "operation",
        "schedule",
        "signal",
        "task",
        "webhook",
        "worker",
    ];
    let name = name.trim_start_matches("tower_promises_");
    !others.iter().any(|other| name.starts_with(other))
}

/// Returns all series of the recorder with their values.
fn series(handle: &PrometheusHandle) -> BTreeMap<String, f64> {
    let text = handle.render();
    let lines = text.lines().filter(|line| line.starts_with("tower_"));
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(pair).collect()
}

/// Sends a request to a handler with a single promise. `make` creates its future.
pub async fn ask_for<F>(layer: PromiseLayer, make: impl Fn() -> F + Clone)
where
    F: Future<Output = ()> + Send + 'static,
{
    let handler = |promises: &Promises| {
        promises.result_or_submit("key", make.clone())?;
        Ok(String::new())
    };
    ask(layer, handler).await.unwrap();
}

/// Returns a blocking job that runs until the sender is dropped.
pub fn held() -> (Sender<()>, impl FnOnce() + Send + 'static) {
    let (sender, receiver) = channel::<()>();
    let job = move || {
        let _ = receiver.recv();
    };
    (sender, job)
}

/// Sends a request to a handler with a single blocking job.
pub async fn ask_for_job(layer: PromiseLayer, job: impl FnOnce() + Send + 'static) {
    let job = Mutex::new(Some(job));
    let handler = |promises: &Promises| {
        if let Some(job) = job.lock().unwrap().take() {
            promises.submit_blocking("job", job)?;
        }
        promises.result::<()>("job")?;
        Ok(String::new())
    };
    ask(layer, handler).await.unwrap();
}
