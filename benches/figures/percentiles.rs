use std::fmt;
use std::time::{Duration, Instant};

/// The number of measurements that are discarded at first.
const WARM_UP: usize = 20;

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// The time that one of a hundred exceeds.
    pub p99: f64,
    /// The longest time.
    pub longest: f64,
}

impl Percentiles {
    /// Returns the percentiles of some times.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let time = times[(times.len() * percent / 100).min(times.len() - 1)];
            time.as_secs_f64() * 1e3
        };
        Self {
            p50: at(50),
            p99: at(99),
            longest: at(100),
        }
    }
}

/// Writes the median and the percentile.
impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4} / {:.4}", self.p50, self.p99)
    }
}

/// Measures sequential calls, after some that do not count.
pub async fn times<F>(rounds: usize, work: impl Fn(usize) -> F) -> Percentiles
where
    F: Future<Output = ()>,
{
    let mut times = Vec::with_capacity(rounds);
    for round in 0..WARM_UP + rounds {
        let start = Instant::now();
        work(round).await;
        if round >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    Percentiles::of(times)
}

/// Returns the median of sequential calls in milliseconds.
pub async fn median<F: Future<Output = ()>>(rounds: usize, work: impl Fn() -> F) -> f64 {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        work().await;
        times.push(start.elapsed());
    }
    Percentiles::of(times).p50
}

/// Returns a rate.
#[allow(clippy::cast_precision_loss)]
#[must_use]
pub fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}
