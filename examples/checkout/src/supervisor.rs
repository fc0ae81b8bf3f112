//! The main process: the world, the proxy, and the instances that it starts.

use crate::instances::Instance;
use crate::{proxy, world};
use std::env;
use std::sync::Arc;
use tokio::net::TcpListener;
use tower_promises::BoxError;

async fn listen(variable: &str, default: &str) -> Result<TcpListener, BoxError> {
    let address = env::var(variable).unwrap_or_else(|_| default.into());
    let listener = TcpListener::bind(&address).await;
    Ok(listener.map_err(|error| format!("{address}: {error}"))?)
}

pub(crate) async fn run() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let mut backend = env::var("BACKEND").unwrap_or_else(|_| "sqlite".into());
    if backend == "sqlite" {
        backend = format!("sqlite:{}", directory.path().join("checkout.db").display());
    }
    // Creates the tables or streams before the instances open them.
    crate::open(&backend).await?;

    let front = listen("ADDR", "127.0.0.1:3000").await?;
    let back = listen("WORLD_ADDR", "127.0.0.1:0").await?;
    let shop = format!("http://{}", front.local_addr()?);
    let world = format!("http://{}", back.local_addr()?);
    let mut instances: Vec<Arc<Instance>> = Vec::new();
    for name in ["web-1", "web-2"] {
        instances.push(Instance::start(name, &backend, &world).await?);
    }
    println!("listening on {shop}, try it in a browser");
    println!("the world is at {world}");
    println!("  # approve orders and kill instances there, or");
    println!("  curl -i -H 'Prefer: respond-async' -d 'item=tea' -d kill=each {shop}/order");
    println!("  curl {world}/mail/0                       # the approver's page");
    println!("  curl -d granted=yes {world}/mail/0");
    println!("  curl -X POST {world}/kill/web-1           # or web-2, at any time");
    println!("  curl {world}/ledger                       # one charge");
    println!("the instances share {backend}");
    tokio::select! {
        ended = world::run(back, shop, instances.clone()) => ended?,
        ended = proxy::run(front, instances) => ended?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}
