//! The variants: the same page, with different ways to combine its queries.

use crate::database::{Author, Authors, Database, Publisher, Publishers, authors, row};
use async_graphql::dataloader::{DataLoader, HashMapCache, NoCache};
use axum::body::Body;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::future::{join_all, try_join_all};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;
use tower_promises::{OrPending, PromiseError, PromiseLayer, Promises};

/// The variants with a loader, in the order of the table.
pub(crate) const SITES: [fn(Database) -> Site; 5] = [
    synchronous,
    asynchronous,
    data_loader,
    data_loader_without_delay,
    shared_data_loader,
];

pub(crate) struct Site {
    pub(crate) name: &'static str,
    app: Router,
}

/// The number of the requested page, which is the same in every pass.
#[derive(Clone, Copy)]
struct Page(usize);

impl Site {
    fn new(name: &'static str, app: Router) -> Self {
        Self { name, app }
    }

    /// Requests a page through all layers, without a connection.
    pub(crate) async fn request(&self, page: usize) -> String {
        let request = axum::http::Request::get("/").extension(Page(page));
        let request = request.body(Body::empty()).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }
}

pub(crate) fn no_loader(database: Database) -> Site {
    let page = async move |Extension(Page(page)): Extension<Page>| {
        let rows = authors(page).map(async |author| {
            let publisher = database.authors(&[author]).await[&author];
            database.publishers(&[publisher]).await;
            row(author, publisher)
        });
        join_all(rows).await.concat()
    };
    Site::new("no loader", Router::new().route("/", get(page)))
}

fn synchronous(database: Database) -> Site {
    let loaders = (
        Arc::new(Authors(database.clone())),
        Arc::new(Publishers(database)),
    );
    let page = async move |Extension(Page(page)): Extension<Page>, promises: Promises| {
        let (of_authors, of_publishers) = &loaders;
        // A row as a template has it: it cannot `await`, and leaves a gap for what is not loaded yet.
        let show = |author: Author| {
            let Some(publisher) = promises.load(of_authors, author).or_pending(None)? else {
                return Ok(String::new());
            };
            let name = promises.load(of_publishers, publisher).or_pending(None)?;
            Ok(name.map_or_else(String::new, |name| row(author, Publisher(name))))
        };
        authors(page)
            .map(show)
            .collect::<Result<String, PromiseError>>()
    };
    let app = Router::new()
        .route("/", get(page))
        .layer(PromiseLayer::new());
    Site::new("`Loader`, synchronous rows", app)
}

fn asynchronous(database: Database) -> Site {
    let loaders = (
        Arc::new(Authors(database.clone())),
        Arc::new(Publishers(database)),
    );
    let page = async move |Extension(Page(page)): Extension<Page>, promises: Promises| {
        let (of_authors, of_publishers) = &loaders;
        let rows = authors(page).map(async |author| {
            let publisher = promises.load_async(of_authors, author).await?;
            let publisher = publisher.unwrap_or(Publisher(0));
            let name = promises.load_async(of_publishers, publisher).await?;
            Ok::<_, PromiseError>(row(author, Publisher(name.unwrap_or_default())))
        });
        Ok::<_, PromiseError>(try_join_all(rows).await?.concat())
    };
    let app = Router::new()
        .route("/", get(page))
        .layer(PromiseLayer::new());
    Site::new("`Loader`, asynchronous rows", app)
}

/// The rows of a page, with the loader of async-graphql.
async fn rows<C: async_graphql::dataloader::CacheFactory>(
    loader: &DataLoader<Database, C>,
    page: usize,
) -> String {
    let rows = authors(page).map(async |author| {
        let publisher = loader.load_one(author).await.unwrap();
        let publisher = publisher.unwrap_or(Publisher(0));
        let name = loader.load_one(publisher).await.unwrap();
        row(author, Publisher(name.unwrap_or_default()))
    });
    join_all(rows).await.concat()
}

/// A loader for each request, with a cache of the request, as `Loader` has it.
fn data_loader_with(name: &'static str, database: Database, delay: Duration) -> Site {
    let page = async move |Extension(Page(page)): Extension<Page>| {
        let cache = HashMapCache::default();
        let loader = DataLoader::with_cache(database.clone(), tokio::spawn, cache).delay(delay);
        rows(&loader, page).await
    };
    Site::new(name, Router::new().route("/", get(page)))
}

fn data_loader(database: Database) -> Site {
    let delay = Duration::from_millis(1);
    data_loader_with("`DataLoader` for each request", database, delay)
}

fn data_loader_without_delay(database: Database) -> Site {
    let name = "`DataLoader` for each request, no delay";
    data_loader_with(name, database, Duration::ZERO)
}

fn shared_data_loader(database: Database) -> Site {
    let loader = DataLoader::with_cache(database, tokio::spawn, NoCache);
    let loader = Arc::new(loader);
    let page = async move |Extension(Page(page)): Extension<Page>| rows(&loader, page).await;
    let app = Router::new().route("/", get(page));
    Site::new("`DataLoader` for all requests", app)
}
