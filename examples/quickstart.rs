//! Two synchronous components request values by name. The layer runs both requests concurrently.
//!
//! Start it with `cargo run --example quickstart`.

use axum::{Router, extract::Path, routing::get};
use std::time::Duration;
use tokio::time::sleep;
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};

// Two slow services.

async fn fetch_name(id: u32) -> String {
    sleep(Duration::from_millis(300)).await;
    format!("User {id}")
}

async fn count_messages(_id: u32) -> u64 {
    sleep(Duration::from_millis(500)).await;
    7
}

// Two synchronous components. Each requests the value that it renders.

fn greeting(promises: &Promises, id: u32) -> Result<String, PromiseError> {
    let name = promises
        .result_or_submit("name", move || fetch_name(id))
        .or_pending(String::new())?;
    Ok(format!("Hello, {name}!"))
}

fn inbox(promises: &Promises, id: u32) -> Result<String, PromiseError> {
    let messages = promises
        .result_or_submit("messages", move || count_messages(id))
        .or_pending(0)?;
    Ok(format!("You have {messages} messages."))
}

/// Runs twice. The layer discards the response of the first pass.
async fn page(Path(id): Path<u32>, promises: Promises) -> Result<String, PromiseError> {
    println!("pass {}", promises.pass());
    let (greeting, inbox) = (greeting(&promises, id)?, inbox(&promises, id)?);
    Ok(format!("{greeting}\n{inbox}\n"))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/users/{id}", get(page))
        .layer(PromiseLayer::new());

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try");
    println!("  time curl http://{address}/users/42     # half a second, not 0.8");
    axum::serve(listener, app).await
}
