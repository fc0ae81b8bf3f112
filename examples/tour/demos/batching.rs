//! The rows of a list request their authors, each row by itself, in one query.

use super::Result;
use crate::stage::Stage;
use axum::Router;
use axum::extract::State;
use axum::response::Html;
use axum::routing::get;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tower_promises::loader::Loader;
use tower_promises::{BoxError, OrPending, PromiseLayer, Promises};
use tracing::info;

// tour: begin
struct Authors;

impl Loader for Authors {
    type Key = usize;
    type Value = &'static str;
    type Error = Infallible;

    async fn load(&self, ids: &[usize]) -> Result<Names, Infallible> {
        Ok(query(ids).await) // one for the whole page
    }
}

/// Renders one row, independently of the other rows.
fn row(promises: &Promises, authors: &Arc<Authors>, book: &Book) -> Result<String> {
    let author = promises.load(authors, book.author).or_pending(None)?;
    let (title, author) = (book.title, author.unwrap_or("unknown"));
    Ok(format!("<tr><td>{title}</td><td>{author}</td></tr>"))
}
// tour: end

type Names = HashMap<usize, &'static str>;

struct Book {
    title: &'static str,
    author: usize,
}

const BOOKS: [(&str, usize); 7] = [
    ("Sense and Sensibility", 1),
    ("Middlemarch", 2),
    ("Frankenstein", 3),
    ("Emma", 1),
    ("Silas Marner", 2),
    ("Jane Eyre", 4),
    ("Persuasion", 1),
];

const NAMES: [(usize, &str); 4] = [
    (1, "Jane Austen"),
    (2, "George Eliot"),
    (3, "Mary Shelley"),
    (4, "Charlotte Brontë"),
];

/// Stands for a query of a database.
async fn query(ids: &[usize]) -> Names {
    info!("SELECT * FROM authors WHERE id IN {ids:?}");
    sleep(Duration::from_millis(40)).await;
    let names = NAMES.into_iter();
    names.filter(|(id, _)| ids.contains(id)).collect()
}

async fn page(promises: Promises, State(authors): State<Arc<Authors>>) -> Result<Html<String>> {
    let rows = BOOKS.map(|(title, author)| row(&promises, &authors, &Book { title, author }));
    let rows = rows.into_iter().collect::<Result<String>>()?;
    Ok(Html(format!("<h1>Library</h1><table>{rows}</table>")))
}

pub(super) fn router(stage: &Stage) -> Result<Router, BoxError> {
    let routes = Router::new().route("/batching", get(page));
    let routes = routes.layer(PromiseLayer::new());
    Ok(stage.around(routes.with_state(Arc::new(Authors))))
}
