//! An instance of the shop.

use crate::pages;
use crate::world::{Call, persist};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use serde::{Deserialize, Serialize};
use std::env;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tower_promises::operations::durable::DurableRun;
use tower_promises::operations::{OperationLayer, Progress};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// The time after which the other instance continues an order. It is short for a demonstration: the default of 15 seconds
/// is better for busy machines.
const LEASE: Duration = Duration::from_secs(2);

const PACKING: Duration = Duration::from_secs(10);

/// The form of the shop.
#[derive(Deserialize)]
struct Order {
    item: String,
    /// The step at which the world kills the instance that calls, or `each`.
    #[serde(default)]
    kill: String,
}

/// The answer of the human.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Approval {
    pub(crate) granted: bool,
    pub(crate) by: String,
}

struct Shop {
    name: String,
    client: reqwest::Client,
    world: String,
}

impl Shop {
    /// Calls a service of the world until the service answers.
    fn call(
        self: &Arc<Self>,
        service: &'static str,
        key: Option<String>,
        order: &Order,
        details: &str,
    ) -> impl Future<Output = Result<String, BoxError>> + Send + use<> {
        let call = Call {
            details: details.to_owned(),
            instance: self.name.clone(),
            kill: order.kill == service || order.kill == "each",
        };
        let shop = self.clone();
        async move {
            let url = format!("{}/services/{service}", shop.world);
            let request = shop.client.post(url).json(&call);
            let key = key.ok_or("the request is not durable")?;
            // An error of a durable promise is remembered like a value. An error of the network says nothing about the
            // order, so it must not become the outcome.
            let response = persist(&request.header("idempotency-key", key)).await;
            let status = response.status();
            let answer = response.text().await?;
            match status.is_success() {
                true => Ok(answer),
                false => Err(answer.into()),
            }
        }
    }
}

/// The order. It runs several times: in several passes, and after the loss of a process in another one.
fn buy(
    promises: &Promises,
    progress: &Progress,
    shop: &Arc<Shop>,
    order: &Order,
) -> Result<Vec<String>, PromiseError> {
    let step = |name: &'static str, message: &str, details: &str| {
        progress.set_message(message);
        let key = promises.idempotency_key(name);
        promises.try_durable(name, || shop.call(name, key, order, details))
    };
    let mut lines = vec![step("reserve", "Reserving stock", &order.item)?];
    lines.push(step("charge", "Charging the card", "42.00 €")?);
    let address = promises.outside_url("approval")?;
    step("mail", "Asking for approval", &address)?;
    progress.set_message("The card is charged. A human has to approve the order.");
    let approval: Approval = promises.outside("approval")?;
    if !approval.granted {
        lines.push(step("refund", "Returning the money", "42.00 €")?);
        lines.push(step("release", "Returning the stock", &order.item)?);
        return Ok(lines);
    }
    lines.push(format!("Approved by {}", approval.by));
    progress.set_message("Packing");
    promises.sleep("packing", PACKING)?;
    lines.push(step("ship", "Shipping", &order.item)?);
    Ok(lines)
}

async fn order(
    promises: Promises,
    progress: Progress,
    Extension(run): Extension<DurableRun>,
    State(shop): State<Arc<Shop>>,
    Form(order): Form<Order>,
) -> Result<Response, PromiseError> {
    match buy(&promises, &progress, &shop, &order) {
        Ok(lines) => Ok(pages::receipt(&lines, run.attempt(), &shop.name).into_response()),
        // A service has refused, for example because the item is sold out.
        Err(PromiseError::Failed { error, .. }) => {
            let page = pages::refused(&error.to_string());
            Ok((StatusCode::CONFLICT, page).into_response())
        }
        Err(error) => Err(error),
    }
}

async fn home(State(shop): State<Arc<Shop>>) -> Response {
    pages::home(&shop.world, &shop.name).into_response()
}

/// Resolves when the supervisor has ended, for any reason.
async fn supervisor_gone() {
    let mut byte = [0];
    let _ = tokio::io::stdin().read(&mut byte).await;
}

pub(crate) async fn run() -> Result<(), BoxError> {
    let shop = Arc::new(Shop {
        name: env::var("NAME")?,
        client: reqwest::Client::new(),
        world: env::var("WORLD")?,
    });
    let layer = OperationLayer::new(crate::open(&env::var("BACKEND")?).await?)
        .durable(|request| request.method == Method::POST && request.uri.path() == "/order")
        .lease(LEASE)
        .lifetime(Duration::from_secs(24 * 60 * 60))
        // The browser gets the page of its order at once: an instance may die at each later step.
        .wait(Duration::ZERO)
        .mount("/orders")
        .show_waiting(|_| true);
    let operations = layer.operations();
    let inner = Router::new()
        .route("/", get(home))
        .route("/order", post(order))
        .layer(PromiseLayer::new())
        .with_state(shop);
    let app: Router = inner.clone().layer(layer);

    let worker = operations.clone();
    let working = tokio::spawn(async move { worker.work::<_, Body, _>(inner).await });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    tokio::select! {
        served = axum::serve(listener, app) => served?,
        () = supervisor_gone() => {}
    }
    // The other processes continue the orders that are given back.
    operations.drain(Duration::ZERO).await;
    working.await??;
    Ok(())
}
