//! A slow request leaves its connection and becomes a page with progress.

use super::{Result, at};
use crate::stage::{Stage, page};
use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use std::time::Duration;
use tokio::time::sleep;
use tower::Layer;
use tower_promises::operations::{OperationLayer, Progress};
use tower_promises::{BoxError, PromiseLayer, Promises};

// tour: begin
const REGIONS: [&str; 4] = ["north", "east", "south", "west"];

async fn report(promises: Promises, progress: Progress) -> Result<Html<String>> {
    let mut rows = String::new();
    for (done, region) in (0_u32..).zip(REGIONS) {
        progress.set(done * 25);
        progress.set_message(format!("Adding up the {region}"));
        // The next region is requested in the next pass.
        let sales: u32 = promises.result_or_submit(region, || add_up(region))?;
        rows += &format!("<tr><td>{region}</td><td>{sales}</td></tr>");
    }
    Ok(Html(format!("<h1>Sales</h1><table>{rows}</table>")))
}

fn layer() -> OperationLayer {
    let layer = OperationLayer::memory().mount("/operation/reports");
    // A request that is ready by then is answered as if there were no layer.
    layer.wait(Duration::from_millis(300))
}
// tour: end

/// Stands for slow queries.
async fn add_up(region: &str) -> u32 {
    sleep(Duration::from_millis(1300)).await;
    region.bytes().map(u32::from).sum()
}

const START: &str = r#"<form method="post" action="/operation/report">
<p>The report takes about five seconds.</p>
<button>Start the report</button>
</form>"#;

pub(super) fn router(stage: &Stage) -> Result<Router, BoxError> {
    let report = Router::new().route("/operation/report", post(report));
    let report = stage.around(report.layer(PromiseLayer::new()));
    let limited = layer()
        .lifetime(Duration::from_secs(60))
        .retention(Duration::from_secs(600))
        .max_running(16)
        .max_stored_bytes(8 << 20);
    let pages = at(
        ["/operation/report", "/operation/reports/{*path}"],
        &limited.layer(report),
    );
    Ok(pages.route("/operation", get(async || page(START))))
}
