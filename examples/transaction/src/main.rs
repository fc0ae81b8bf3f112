//! A handler that writes to a database inside a transaction. The writes of a discarded pass are rolled back, unless the
//! handler commits them itself.
//!
//! Start it with `cargo run -p example-transaction`.

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use sqlx::sqlite::{Sqlite, SqlitePool, SqlitePoolOptions};
use sqlx::{Row, Transaction};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tower_promises::{PromiseError, PromiseLayer, Promises};

/// The transaction of the current pass. `None` after the handler has committed it.
type Pass = Arc<Mutex<Option<Transaction<'static, Sqlite>>>>;

/// The transaction layer: one transaction for each pass. It belongs between `PromiseLayer` and the handler. No
/// connection is held while promises run.
async fn transaction(
    State(pool): State<SqlitePool>,
    promises: Promises,
    mut request: Request,
    next: Next,
) -> Result<Response, Error> {
    let pass = Pass::new(Mutex::new(Some(pool.begin().await?)));
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

#[derive(Deserialize)]
struct Order {
    item: String,
}

/// Writes before it requests the price. The order is wrong, but does no harm because of the transaction.
async fn order(
    Query(order): Query<Order>,
    Extension(pass): Extension<Pass>,
    promises: Promises,
) -> Result<String, Error> {
    let mut guard = pass.lock().await;
    let transaction = guard.as_mut().ok_or(Error::Committed)?;
    insert(transaction, "orders", &order.item, &promises).await?;

    let item = order.item.clone();
    let price = promises.result_or_submit("price", || fetch_price(item))?;
    Ok(format!("{} for {price} coins\n", order.item))
}

/// Records every attempt, whether it succeeds or not.
async fn audited_order(
    query: Query<Order>,
    Extension(pass): Extension<Pass>,
    State(pool): State<SqlitePool>,
    promises: Promises,
) -> Result<String, Error> {
    if promises.pass() == 1 {
        let mut guard = pass.lock().await;
        let mut transaction = guard.take().ok_or(Error::Committed)?;
        insert(&mut transaction, "audit", &query.item, &promises).await?;
        transaction.commit().await?;
        println!("pass {}: committed by the handler", promises.pass());
        *guard = Some(pool.begin().await?);
    }
    order(query, Extension(pass), promises).await
}

async fn list(State(pool): State<SqlitePool>) -> Result<String, Error> {
    let mut text = String::new();
    for table in ["orders", "audit"] {
        text += &format!("{table}:\n");
        let query = format!("SELECT item, pass FROM {table} ORDER BY rowid");
        for row in sqlx::query(sqlx::AssertSqlSafe(query))
            .fetch_all(&pool)
            .await?
        {
            let (item, pass): (String, i64) = (row.try_get("item")?, row.try_get("pass")?);
            text += &format!("  {item}, written by pass {pass}\n");
        }
    }
    Ok(text)
}

async fn insert(
    transaction: &mut Transaction<'static, Sqlite>,
    table: &'static str,
    item: &str,
    promises: &Promises,
) -> Result<(), sqlx::Error> {
    let query = format!("INSERT INTO {table} (item, pass) VALUES (?, ?)");
    sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(item)
        .bind(i64::try_from(promises.pass()).unwrap_or(i64::MAX))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// A slow service.
async fn fetch_price(item: String) -> usize {
    tokio::time::sleep(Duration::from_millis(300)).await;
    item.len()
}

/// The errors of a handler. `Pending` is the most frequent.
enum Error {
    Promise(PromiseError),
    Database(sqlx::Error),
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

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self {
            Self::Promise(error) => error.into_response(),
            Self::Database(error) => {
                eprintln!("the database failed: {error}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
            Self::Committed => {
                eprintln!("the transaction has been committed before its end");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A single connection that stays open, because the database is in its memory.
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect("sqlite::memory:")
        .await?;
    for table in ["orders", "audit"] {
        let query = format!("CREATE TABLE {table} (item TEXT NOT NULL, pass INTEGER NOT NULL)");
        sqlx::query(sqlx::AssertSqlSafe(query))
            .execute(&pool)
            .await?;
    }

    let app = Router::new()
        .route("/orders", post(order))
        .route("/audited-orders", post(audited_order))
        // Inside the layer, so that each pass has its own transaction.
        .layer(middleware::from_fn_with_state(pool.clone(), transaction))
        .layer(PromiseLayer::new())
        .route("/", get(list))
        .with_state(pool);

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try");
    println!("  curl -X POST 'http://{address}/orders?item=tea'");
    println!("  curl -X POST 'http://{address}/audited-orders?item=cake'");
    println!("  curl http://{address}/     # one row for each order, and what pass 1 committed");
    axum::serve(listener, app).await?;
    Ok(())
}
