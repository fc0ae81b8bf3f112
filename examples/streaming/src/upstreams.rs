//! The services behind the shop, on loopback. Each has its own latency.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// The names of the services and their latencies in milliseconds.
const ALL: [(&str, u64); 7] = [
    ("catalogue", 30),
    ("delivery", 300),
    ("price", 600),
    ("recommendations", 1100),
    ("reviews", 1900),
    ("summary", 700),
    ("stock", 100),
];

/// The products: names in addresses, titles and prices.
const PRODUCTS: [(&str, &str, &str); 4] = [
    ("tea", "Assam, second flush", "12.90 €"),
    ("coffee", "Sidamo, washed", "15.40 €"),
    ("cocoa", "Cocoa from São Tomé", "9.80 €"),
    ("mate", "Mate, lightly smoked", "7.50 €"),
];

/// Starts the services, each with its own listener.
pub(crate) async fn start() -> std::io::Result<Vec<(&'static str, SocketAddr)>> {
    let mut addresses = Vec::new();
    for (name, latency) in ALL {
        let app = Router::new()
            .route("/{product}", get(answer))
            .with_state((name, latency));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push((name, listener.local_addr()?));
        tokio::spawn(async move { axum::serve(listener, app).await });
    }
    Ok(addresses)
}

async fn answer(
    State((name, latency)): State<(&'static str, u64)>,
    Path(product): Path<String>,
) -> Result<Json<Value>, StatusCode> {
    sleep(Duration::from_millis(latency)).await;
    let known = PRODUCTS.iter().find(|(id, ..)| *id == product);
    let (_, title, price) = known.ok_or(StatusCode::NOT_FOUND)?;
    let others = PRODUCTS.iter().filter(|(id, ..)| *id != product);
    let others = others.map(|(id, title, _)| json!({ "product": id, "title": title }));
    Ok(Json(match name {
        "catalogue" => {
            json!({ "title": title, "text": "250 g, from a small estate. Packed this week." })
        }
        "price" => json!({ "amount": price }),
        "recommendations" => others.collect(),
        "reviews" => json!([
            { "author": "Ada", "stars": 5, "text": "Malty, strong, and still good after the third infusion." },
            { "author": "Grace", "stars": 4, "text": "Better than <b>anything</b> at the airport." },
            { "author": "Barbara", "stars": 5, "text": "My colleagues come by for it." },
        ]),
        "summary" => json!({ "text": "Readers praise the taste, and buy it again." }),
        "delivery" => return Err(StatusCode::INTERNAL_SERVER_ERROR),
        // The stock service does not answer.
        _ => std::future::pending().await,
    }))
}
