//! A page begins before it is complete. Its slow parts follow in the same response.

use super::Result;
use crate::stage::Stage;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::get;
use std::time::Duration;
use tokio::time::sleep;
use tower_promises::fragment::{FragmentLayer, SCRIPT};
use tower_promises::{BoxError, PromiseError, Promises};

// tour: begin
fn product(promises: &Promises) -> Result<String> {
    let price = promises.fragment("price", "<p class=wait>…</p>", |promises| {
        let price = promises.result_or_submit("price", || call(800, "12.90 €"))?;
        Ok::<_, PromiseError>(format!("<p><b>{price}</b> with VAT</p>"))
    });
    let reviews = promises.fragment("reviews", "<p class=wait>…</p>", |promises| {
        let review = promises.result_or_submit("reviews", || call(2000, "Malty."))?;
        Ok::<_, PromiseError>(format!("<blockquote>{review}</blockquote>"))
    });
    // Outside of fragments: the page, and its status, wait for the title.
    let title = promises.result_or_submit("title", || call(30, "Assam"))?;
    Ok(format!("<h1>{title}</h1>{price}<h2>Reviews</h2>{reviews}"))
}

async fn page(promises: Promises) -> Result<Html<String>> {
    product(&promises).map(Html)
}

fn layer() -> FragmentLayer {
    // The script is for browsers without `<template for>`.
    FragmentLayer::new().script("/fragments.js")
}
// tour: end

/// A slow service.
async fn call(milliseconds: u64, answer: &'static str) -> &'static str {
    sleep(Duration::from_millis(milliseconds)).await;
    answer
}

pub(super) fn router(stage: &Stage) -> Result<Router, BoxError> {
    let routes = Router::new().route("/streaming", get(page));
    let script = get(async || ([(CONTENT_TYPE, "text/javascript")], SCRIPT));
    let routes = stage.around(routes.layer(layer()));
    Ok(routes.route("/fragments.js", script))
}
