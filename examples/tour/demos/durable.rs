//! A request that continues after the death of its worker, and waits without memory.

use super::shop::Shop;
use super::{Result, approver, at};
use crate::stage::{Stage, page};
use axum::body::Body;
use axum::extract::State;
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Form, Router};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::select;
use tower::Layer;
use tower_promises::backend::Backend;
use tower_promises::operations::OperationLayer;
use tower_promises::{BoxError, PromiseLayer, Promises};

#[derive(Deserialize)]
struct Order {
    /// Whether the worker dies between the charge and its answer.
    #[serde(default)]
    dies: bool,
}

// tour: begin
fn buy(promises: &Promises, shop: &Arc<Shop>, order: &Order) -> Result<String> {
    // The provider recognises a repeated call by its key.
    let key = promises.idempotency_key("charge");
    let receipt: String = promises.durable("charge", || shop.charge(key, order.dies))?;
    let link = promises.outside_url("approval")?;
    promises.durable("mail", || shop.mail(link))?;
    // Until the approver answers, nothing of the request is in memory.
    let granted: bool = promises.outside("approval")?;
    if !granted {
        return Ok(format!("<h1>Refused</h1><p>{receipt} is refunded.</p>"));
    }
    promises.sleep("packing", Duration::from_secs(2))?;
    let parcel: String = promises.durable("ship", || shop.ship())?;
    Ok(format!("<h1>Shipped</h1><p>{receipt}, {parcel}</p>"))
}

fn layer(backend: Backend) -> OperationLayer {
    let layer = OperationLayer::new(backend).mount("/durable/orders");
    let layer =
        layer.durable(|request| request.method == "POST" && request.uri.path() == "/durable/order");
    layer.lease(Duration::from_secs(2)).wait(Duration::ZERO)
}
// tour: end

fn limited(backend: &Backend) -> OperationLayer {
    layer(backend.clone())
        .show_waiting(|_| true)
        .lifetime(Duration::from_secs(600))
        .retention(Duration::from_secs(600))
        .max_running(16)
        .max_runs(16)
        .max_stored_bytes(8 << 20)
}

async fn order(
    promises: Promises,
    State(shop): State<Arc<Shop>>,
    Form(order): Form<Order>,
) -> Result<Html<String>> {
    buy(&promises, &shop, &order).map(Html)
}

/// Takes up runs. When its worker dies, it employs another one.
async fn employ(inner: Router, backend: Backend, shop: Arc<Shop>) {
    loop {
        let worker = limited(&backend).operations();
        select! {
            _ = worker.work::<_, Body, _>(inner.clone()) => return,
            // Drops the worker and its runs, as the end of a process does.
            () = shop.death() => {}
        }
    }
}

const START: &str = r#"<form method="post" action="/durable/order">
<p>Teapot, 42.00 €</p>
<p><label><input type="checkbox" name="dies" value="true" checked>
The worker dies when the card is charged</label></p>
<button>Order</button>
</form>"#;

pub(super) fn router(stage: &Stage) -> Result<Router, BoxError> {
    let (backend, shop) = (Backend::memory(), Arc::<Shop>::default());
    let order = Router::new().route("/durable/order", post(order));
    let order = order.layer(PromiseLayer::new()).with_state(shop.clone());
    let order = stage.around(order);
    tokio::spawn(employ(order.clone(), backend.clone(), shop.clone()));
    let order = limited(&backend).layer(order);
    let pages = at(["/durable/order", "/durable/orders/{*path}"], &order);
    let pages = pages.route("/durable", get(async || page(START)));
    Ok(pages.merge(approver::router(order, shop)))
}
