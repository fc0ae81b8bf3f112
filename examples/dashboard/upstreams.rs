//! Three slow services on loopback.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// The names of the services and their latencies in milliseconds.
pub(crate) const ALL: [(&str, u64); 3] = [("user", 150), ("orders", 400), ("weather", 250)];

#[derive(Deserialize)]
struct Parameters {
    /// `fail` or `hang`.
    mode: Option<String>,
    city: Option<String>,
}

/// Starts the services, each with its own listener.
pub(crate) async fn start() -> std::io::Result<Vec<(&'static str, SocketAddr)>> {
    let mut addresses = Vec::new();
    for (name, latency) in ALL {
        let app = Router::new()
            .route("/{name}", get(answer))
            .with_state(latency);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push((name, listener.local_addr()?));
        tokio::spawn(async move { axum::serve(listener, app).await });
    }
    Ok(addresses)
}

async fn answer(
    State(latency): State<u64>,
    Path(name): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, StatusCode> {
    sleep(Duration::from_millis(latency)).await;
    match parameters.mode.as_deref() {
        Some("fail") => return Err(StatusCode::INTERNAL_SERVER_ERROR),
        Some("hang") => std::future::pending().await,
        _ => {}
    }
    let text = match name.as_str() {
        "user" => "Ferris".to_owned(),
        "orders" => "3 on their way".to_owned(),
        _ => match parameters.city {
            Some(city) => format!("sunny in {city}"),
            None => "sunny somewhere".to_owned(),
        },
    };
    Ok(Json(
        json!({ "text": text, "city": "Augsburg", "ms": latency }),
    ))
}
