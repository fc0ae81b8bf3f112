//! A page whose template cannot wait, with numbers that take long to compute.

use axum::http::StatusCode;
use axum::response::Html;
use std::time::{Duration, Instant};
use tower_promises::operations::Progress;
use tower_promises::{PromiseError, Promises};

const REGIONS: [&str; 4] = ["north", "east", "south", "west"];

/// Blocks its thread for a second, and reports its progress. Stops early if the operation is cancelled.
fn revenue(region: &'static str, number: usize, progress: &Progress) -> u32 {
    let start = Instant::now();
    let mut revenue = 0;
    while start.elapsed() < Duration::from_secs(1) && !progress.is_cancelled() {
        revenue = (0..100_000_u32).fold(revenue, |sum, sale| (sum + sale * 7) % 9973);
        #[expect(clippy::cast_precision_loss, reason = "there are few regions")]
        let done = number as f64 + start.elapsed().as_secs_f64().min(1.0);
        progress.set(100.0 * done / 4.0);
        progress.set_message(format!("adding up the {region}"));
    }
    revenue % 9 + 1
}

/// Runs once more for each region.
fn table(promises: &Promises, progress: &Progress) -> Result<String, PromiseError> {
    let mut rows = String::new();
    for (number, region) in REGIONS.into_iter().enumerate() {
        let progress = progress.clone();
        // The `?` makes the promises run in sequence: each is submitted when the previous one has settled.
        let revenue = promises
            .result_or_submit_blocking(format!("revenue:{region}"), move || {
                revenue(region, number, &progress)
            })?;
        rows += &format!("<tr><th>{region}<td>{revenue} million\n");
    }
    Ok(rows)
}

pub(crate) async fn report(
    promises: Promises,
    progress: Progress,
) -> Result<Html<String>, StatusCode> {
    let rows = table(&promises, &progress).map_err(|error| error.status())?;
    Ok(Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Report</title>\n\
         <h1>Report</h1>\n<table>\n{rows}</table>\n</html>\n"
    )))
}
