//! A handler that writes to a database inside a transaction, and submits a task in the same transaction. The writes and
//! the tasks of a discarded pass are rolled back, unless the handler commits them itself. So there is one confirmation
//! for each order, and none without an order, whatever dies in between.
//!
//! Start it with `cargo run -p example-transaction`. `BACKEND` selects the database of orders and tasks: `postgres:url` (a
//! database that is kept), or by default `sqlite` (a temporary file).

mod database;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use database::{Database, Transaction};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tower_promises::tasks::{
    Task, TaskContext, TaskError, TaskFailure, TaskLayer, TaskQueueOptions, Tasks,
};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

/// The transaction of the current pass. `None` after the handler has committed it.
type Pass = Arc<Mutex<Option<Transaction>>>;

/// The transaction layer: one transaction for each pass. It belongs between `PromiseLayer` and the handler. No
/// connection is held while promises run.
async fn transaction(
    State(database): State<Database>,
    promises: Promises,
    mut request: Request,
    next: Next,
) -> Result<Response, Error> {
    let pass = Pass::new(Mutex::new(Some(database.begin().await?)));
    request.extensions_mut().insert(pass.clone());
    let response = next.run(request).await;

    if let Some(transaction) = pass.lock().await.take() {
        if promises.will_discard() || response.status().is_server_error() {
            println!("pass {}: rolled back", promises.pass());
            transaction.rollback().await?;
        } else {
            println!("pass {}: committed", promises.pass());
            transaction.commit().await?;
        }
    }
    Ok(response)
}

/// Sends the confirmation of an order. It may run twice, so the column with its id is unique.
#[derive(Serialize, Deserialize)]
struct Confirm {
    item: String,
}

impl Task for Confirm {
    const NAME: &'static str = "confirm";
    type Output = ();

    async fn run(self, context: TaskContext) -> Result<(), TaskFailure> {
        let database: &Database = context.state()?;
        let id = context.id().as_str();
        database.write_mail(id, &self.item).await?;
        println!("a mail confirms {}", self.item);
        Ok(())
    }
}

#[derive(Deserialize)]
struct Order {
    item: String,
}

/// Writes before it requests the price. The order is wrong, but does no harm because of the transaction.
async fn order(
    Query(order): Query<Order>,
    Extension(pass): Extension<Pass>,
    tasks: Tasks,
    promises: Promises,
) -> Result<String, Error> {
    let mut guard = pass.lock().await;
    let transaction = guard.as_mut().ok_or(Error::Committed)?;
    let pass = promises.pass();
    transaction.insert("orders", &order.item, pass).await?;
    let item = order.item.clone();
    let confirm = tasks.queue("mails").submit(Confirm { item });
    transaction.submit(confirm).await?;

    let item = order.item.clone();
    let price = promises.result_or_try_submit("price", || fetch_price(item))?;
    Ok(format!("{} for {price} coins\n", order.item))
}

/// Records every attempt, whether it succeeds or not.
async fn audited_order(
    query: Query<Order>,
    Extension(pass): Extension<Pass>,
    State(database): State<Database>,
    tasks: Tasks,
    promises: Promises,
) -> Result<String, Error> {
    if promises.pass() == 1 {
        let mut guard = pass.lock().await;
        let mut transaction = guard.take().ok_or(Error::Committed)?;
        transaction.insert("audit", &query.item, 1).await?;
        transaction.commit().await?;
        println!("pass {}: committed by the handler", promises.pass());
        *guard = Some(database.begin().await?);
    }
    order(query, Extension(pass), tasks, promises).await
}

async fn list(State(database): State<Database>) -> Result<String, Error> {
    let mut text = String::new();
    for table in ["orders", "audit"] {
        text += &format!("{table}:\n");
        for (item, pass) in database.items(table).await? {
            text += &format!("  {item}, written by pass {pass}\n");
        }
    }
    text += "mails:\n";
    for item in database.mails().await? {
        text += &format!("  {item} is confirmed\n");
    }
    Ok(text)
}

/// A slow service, which does not know everything.
async fn fetch_price(item: String) -> Result<usize, &'static str> {
    tokio::time::sleep(Duration::from_millis(300)).await;
    if item == "unicorn" {
        return Err("there is no such thing");
    }
    Ok(item.len())
}

/// The errors of a handler. `Pending` is the most frequent.
enum Error {
    Promise(PromiseError),
    Database(sqlx::Error),
    Task(TaskError),
    Committed,
}

impl From<PromiseError> for Error {
    fn from(error: PromiseError) -> Self {
        Self::Promise(error)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        Self::Task(error)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self {
            Self::Promise(error) => error.into_response(),
            Self::Database(error) => {
                eprintln!("the database failed: {error}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            Self::Task(error) => error.into_response(),
            Self::Committed => {
                eprintln!("the transaction has been committed before its end");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let (database, backend) = database::open(&directory).await?;
    let tasks = Tasks::builder(backend)
        .queue(TaskQueueOptions::new("mails").task::<Confirm>())
        .state(database.clone())
        .build();
    let _worker = tasks.work()?;

    let app = Router::new()
        .route("/orders", post(order))
        .route("/audited-orders", post(audited_order))
        // Inside the layer, so that each pass has its own transaction.
        .layer(middleware::from_fn_with_state(
            database.clone(),
            transaction,
        ))
        .layer(PromiseLayer::new())
        .layer(TaskLayer::new(tasks))
        .route("/", get(list))
        .with_state(database);

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try");
    println!("  curl -X POST 'http://{address}/orders?item=tea'");
    println!("  curl -X POST 'http://{address}/audited-orders?item=cake'");
    println!(
        "  curl -X POST 'http://{address}/orders?item=unicorn'     # fails: neither an order nor a mail"
    );
    println!(
        "  curl http://{address}/     # one row and one mail for each order, and what pass 1 committed"
    );
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    Ok(())
}
