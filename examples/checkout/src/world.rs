//! All that the shop calls: a warehouse, a payment provider, a mailbox and a carrier. They honour idempotency keys: a
//! repeated call has no second effect, and gets the answer of the first. If a call says so, the world kills the
//! instance that calls, after the effect and before the answer.

use crate::instances::Instance;
use crate::pages;
use crate::shop::Approval;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower_promises::BoxError;

const STOCK: usize = 10;

/// The time that each service takes.
const LATENCY: Duration = Duration::from_millis(300);

/// A call of the shop.
#[derive(Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) details: String,
    pub(crate) instance: String,
    pub(crate) kill: bool,
}

/// An effect in the world.
#[derive(Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) service: String,
    pub(crate) details: String,
    /// The answer. An error if the service has refused.
    pub(crate) answer: Result<String, String>,
    /// The number of calls with this key.
    pub(crate) calls: usize,
    #[serde(skip)]
    key: String,
}

/// A message for the approver.
#[derive(Clone)]
pub(crate) struct Mail {
    /// The path at which the shop takes the answer.
    address: String,
    pub(crate) answer: Option<String>,
}

#[derive(Default)]
struct Ledger {
    entries: Vec<Entry>,
    mails: Vec<Mail>,
}

impl Ledger {
    /// Finds the effect with this key, or has it.
    fn effect(&mut self, service: &str, key: &str, details: &str) -> (Entry, bool) {
        let found = self.entries.iter_mut().find(|entry| entry.key == key);
        if let Some(entry) = found {
            entry.calls += 1;
            return (entry.clone(), false);
        }
        let entry = Entry {
            answer: self.answer(service, details),
            service: service.to_owned(),
            details: details.to_owned(),
            calls: 1,
            key: key.to_owned(),
        };
        self.entries.push(entry.clone());
        (entry, true)
    }

    fn answer(&mut self, service: &str, details: &str) -> Result<String, String> {
        let number = 1 + self.count(service);
        match service {
            "reserve" if self.left() == 0 => Err(format!("{details} is sold out")),
            "reserve" => Ok(format!("Reserved: {details}")),
            "release" => Ok(format!("Returned to the shelf: {details}")),
            "charge" => Ok(format!("Charged {details}, receipt {number}")),
            "refund" => Ok(format!("Refunded {details}")),
            "mail" => {
                self.mails.push(Mail {
                    address: details.to_owned(),
                    answer: None,
                });
                Ok("Sent to the approver".into())
            }
            "ship" => Ok(format!("Shipped: {details}, parcel {number}")),
            _ => Err(format!("there is no service `{service}`")),
        }
    }

    fn count(&self, service: &str) -> usize {
        let of_service = |entry: &&Entry| entry.service == service && entry.answer.is_ok();
        self.entries.iter().filter(of_service).count()
    }

    fn left(&self) -> usize {
        STOCK + self.count("release") - self.count("reserve")
    }
}

struct World {
    ledger: Mutex<Ledger>,
    instances: Vec<Arc<Instance>>,
    shop: String,
    client: reqwest::Client,
}

type Shared = State<Arc<World>>;

impl World {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn kill(&self, name: &str) {
        let instance = self.instances.iter().find(|it| it.name == name);
        if let Some(instance) = instance {
            instance.kill().await;
        }
    }
}

/// Sends a request until a service answers. This is safe if a repeated request has no second effect.
pub(crate) async fn persist(request: &reqwest::RequestBuilder) -> reqwest::Response {
    loop {
        // The requests of this example have no streams, so they can be cloned.
        let request = request.try_clone().expect("the body is no stream");
        match request.timeout(Duration::from_secs(5)).send().await {
            Ok(response) if !response.status().is_server_error() => return response,
            _ => sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn serve(
    State(world): Shared,
    Path(service): Path<String>,
    headers: HeaderMap,
    Json(call): Json<Call>,
) -> (StatusCode, String) {
    let key = headers.get("idempotency-key");
    let Some(key) = key.and_then(|key| key.to_str().ok()) else {
        return (StatusCode::BAD_REQUEST, "there is no key".into());
    };
    sleep(LATENCY).await;
    let (entry, is_new) = world.ledger().effect(&service, key, &call.details);
    if call.kill && is_new {
        world.kill(&call.instance).await;
    }
    match entry.answer {
        Ok(answer) => (StatusCode::OK, answer),
        Err(refusal) => (StatusCode::CONFLICT, refusal),
    }
}

/// The page of the approver. A `GET` decides nothing, because mail programs open links for a preview.
async fn show_mail(State(world): Shared, Path(number): Path<usize>) -> Response {
    match world.ledger().mails.get(number) {
        Some(mail) => pages::mail(number, mail).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[derive(Deserialize)]
struct Decision {
    granted: String,
}

async fn decide(
    State(world): Shared,
    Path(number): Path<usize>,
    Form(decision): Form<Decision>,
) -> Response {
    let Some(mail) = world.ledger().mails.get(number).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let value = Approval {
        granted: decision.granted == "yes",
        by: "Ada".into(),
    };
    let url = format!("{}{}", world.shop, mail.address);
    let settlement = serde_json::json!({ "value": value });
    let settled = persist(&world.client.post(url).json(&settlement)).await;
    let answer = match settled.status() {
        StatusCode::OK if value.granted => "approved",
        StatusCode::OK => "refused",
        StatusCode::CONFLICT => "decided otherwise before",
        _ => "too late",
    };
    if let Some(mail) = world.ledger().mails.get_mut(number) {
        mail.answer = Some(answer.into());
    }
    Redirect::to(&format!("/mail/{number}")).into_response()
}

async fn kill(State(world): Shared, Path(name): Path<String>) -> Redirect {
    world.kill(&name).await;
    Redirect::to("/")
}

async fn show(State(world): Shared) -> Response {
    let ledger = world.ledger();
    let (entries, mails) = (&ledger.entries, &ledger.mails);
    pages::world(&world.shop, &world.instances, entries, mails, ledger.left()).into_response()
}

async fn list(State(world): Shared) -> Json<Vec<Entry>> {
    Json(world.ledger().entries.clone())
}

pub(crate) async fn run(
    listener: TcpListener,
    shop: String,
    instances: Vec<Arc<Instance>>,
) -> Result<(), BoxError> {
    let world = World {
        ledger: Mutex::default(),
        instances,
        shop,
        client: reqwest::Client::new(),
    };
    let app = Router::new()
        .route("/", get(show))
        .route("/ledger", get(list))
        .route("/services/{service}", post(serve))
        .route("/mail/{number}", get(show_mail).post(decide))
        .route("/kill/{name}", post(kill))
        .with_state(Arc::new(world));
    Ok(axum::serve(listener, app).await?)
}
