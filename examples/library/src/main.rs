//! A list page whose rows request their author and their tags, each row by itself. Loaders turn that into three queries
//! instead of 1 + 2n.
//!
//! Start it with `cargo run -p example-library`.

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{QueryBuilder, Row};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tower_promises::loader::Loader;
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};

const BOOKS: i64 = 50;

/// The database, with the number of queries that it has answered.
#[derive(Clone)]
struct Database {
    pool: SqlitePool,
    queries: Arc<AtomicUsize>,
}

impl Database {
    fn query(&self) -> &SqlitePool {
        self.queries.fetch_add(1, Ordering::Relaxed);
        &self.pool
    }
}

#[derive(Clone)]
struct Book {
    id: i64,
    title: String,
    author: i64,
}

async fn books(database: Database) -> Result<Arc<Vec<Book>>, sqlx::Error> {
    let rows = sqlx::query("SELECT id, title, author FROM books ORDER BY id");
    let rows = rows.fetch_all(database.query()).await?;
    let books = rows.iter().map(|row| {
        Ok(Book {
            id: row.try_get("id")?,
            title: row.try_get("title")?,
            author: row.try_get("author")?,
        })
    });
    Ok(Arc::new(books.collect::<Result<_, sqlx::Error>>()?))
}

/// Loads the names of authors by their ids.
struct Authors(Database);

impl Loader for Authors {
    type Key = i64;
    type Value = String;
    type Error = sqlx::Error;

    async fn load(&self, ids: &[i64]) -> Result<HashMap<i64, String>, sqlx::Error> {
        let mut query = QueryBuilder::new("SELECT id, name FROM authors WHERE id IN (");
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(*id);
        }
        query.push(")");
        let rows = query.build().fetch_all(self.0.query()).await?;
        let names = rows
            .iter()
            .map(|row| Ok((row.try_get("id")?, row.try_get("name")?)));
        names.collect()
    }
}

/// Loads the tags of books by the ids of the books.
struct Tags(Database);

impl Loader for Tags {
    type Key = i64;
    type Value = Vec<String>;
    type Error = sqlx::Error;

    async fn load(&self, ids: &[i64]) -> Result<HashMap<i64, Vec<String>>, sqlx::Error> {
        let mut query = QueryBuilder::new("SELECT book, tag FROM tags WHERE book IN (");
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(*id);
        }
        query.push(") ORDER BY tag");
        let mut tags = HashMap::<i64, Vec<String>>::new();
        for row in query.build().fetch_all(self.0.query()).await? {
            let book = tags.entry(row.try_get("book")?).or_default();
            book.push(row.try_get("tag")?);
        }
        Ok(tags)
    }
}

#[derive(Clone)]
struct Library {
    database: Database,
    authors: Arc<Authors>,
    tags: Arc<Tags>,
}

impl Library {
    /// Renders one row of the page, independently of the other rows.
    fn row(&self, book: &Book) -> Result<String, PromiseError> {
        let promises = Promises::current().expect("PromiseLayer is around the handler");
        // Requests both before it needs either, so both are in the first batch.
        let author = promises.load(&self.authors, book.author).or_pending(None)?;
        let tags = promises.load(&self.tags, book.id).or_pending(None)?;
        let author = author.unwrap_or_else(|| "unknown".to_owned());
        let tags = tags.unwrap_or_default().join(", ");
        Ok(format!("{} by {author} ({tags})\n", book.title))
    }
}

async fn page(
    State(library): State<Library>,
    Extension(QueriesBefore(before)): Extension<QueriesBefore>,
    promises: Promises,
) -> Result<impl IntoResponse, PromiseError> {
    let database = library.database.clone();
    let books = promises.result_or_try_submit("books", || books(database))?;
    let mut page = String::new();
    for book in books.iter() {
        page += &library.row(book)?;
    }
    let queries = library.database.queries.load(Ordering::Relaxed) - before;
    let each = 1 + 2 * books.len();
    let passes = promises.pass();
    Ok(format!(
        "{page}\n{queries} queries instead of {each}, in {passes} passes\n"
    ))
}

/// The number of queries when the request arrived.
#[derive(Clone, Copy)]
struct QueriesBefore(usize);

/// Middleware outside `PromiseLayer`, so it runs once for a request.
async fn note_queries(
    State(library): State<Library>,
    mut request: Request,
    next: Next,
) -> Response {
    let queries = library.database.queries.load(Ordering::Relaxed);
    request.extensions_mut().insert(QueriesBefore(queries));
    next.run(request).await
}

async fn fill(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    for query in [
        "CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
        "CREATE TABLE books (id INTEGER PRIMARY KEY, title TEXT NOT NULL, author INTEGER NOT NULL)",
        "CREATE TABLE tags (book INTEGER NOT NULL, tag TEXT NOT NULL)",
    ] {
        sqlx::query(query).execute(pool).await?;
    }
    for id in 1..=BOOKS {
        let author = 1 + id % 10;
        let insert = sqlx::query("INSERT OR IGNORE INTO authors VALUES (?, ?)");
        insert
            .bind(author)
            .bind(format!("Author {author}"))
            .execute(pool)
            .await?;
        let insert = sqlx::query("INSERT INTO books VALUES (?, ?, ?)");
        insert
            .bind(id)
            .bind(format!("Book {id}"))
            .bind(author)
            .execute(pool)
            .await?;
        for tag in ["paper", if id % 2 == 0 { "novel" } else { "essay" }] {
            let insert = sqlx::query("INSERT INTO tags VALUES (?, ?)");
            insert.bind(id).bind(tag).execute(pool).await?;
        }
    }
    Ok(())
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
    fill(&pool).await?;
    let database = Database {
        pool,
        queries: Arc::default(),
    };
    let library = Library {
        authors: Arc::new(Authors(database.clone())),
        tags: Arc::new(Tags(database.clone())),
        database,
    };

    let app = Router::new()
        .route("/", get(page))
        .layer(PromiseLayer::new())
        .layer(middleware::from_fn_with_state(
            library.clone(),
            note_queries,
        ))
        .with_state(library);

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try");
    println!("  curl http://{address}/     # {BOOKS} books, 3 queries");
    axum::serve(listener, app).await?;
    Ok(())
}
