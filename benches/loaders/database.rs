//! The simulated database, its two loaders, and the page that every variant renders.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The rows of a page.
pub(crate) const ROWS: usize = 50;

/// A database that answers each query after the same time, whatever the number of its keys.
#[derive(Clone)]
pub(crate) struct Database {
    answer: Duration,
    connections: Arc<Semaphore>,
    queries: Arc<AtomicUsize>,
    keys: Arc<AtomicUsize>,
}

/// The id of an author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Author(pub(crate) usize);

/// The id of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Publisher(pub(crate) usize);

/// The authors of the rows of a page. Some authors have more than one row.
pub(crate) fn authors(page: usize) -> impl Iterator<Item = Author> {
    (0..ROWS).map(move |row| Author((page * 31 + row * row) % 1_000))
}

/// The publisher of an author, which is part of the answer for the author.
pub(crate) fn publisher(author: Author) -> Publisher {
    Publisher(author.0 % 70)
}

pub(crate) fn row(author: Author, publisher: Publisher) -> String {
    format!("{} at {}\n", author.0, publisher.0)
}

/// The right page.
pub(crate) fn expected(page: usize) -> String {
    authors(page)
        .map(|author| row(author, publisher(author)))
        .collect()
}

impl Database {
    pub(crate) fn new(answer: Duration, connections: usize) -> Self {
        Self {
            answer,
            connections: Arc::new(Semaphore::new(connections)),
            queries: Arc::default(),
            keys: Arc::default(),
        }
    }

    /// The queries so far.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }

    /// The keys of all queries so far.
    pub(crate) fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    async fn query<K: Copy + Eq + Hash, V>(&self, keys: &[K], value: fn(K) -> V) -> HashMap<K, V> {
        let _connection = self.connections.acquire().await.unwrap();
        self.queries.fetch_add(1, Ordering::Relaxed);
        self.keys.fetch_add(keys.len(), Ordering::Relaxed);
        tokio::time::sleep(self.answer).await;
        keys.iter().map(|key| (*key, value(*key))).collect()
    }

    /// The publishers of authors.
    pub(crate) async fn authors(&self, keys: &[Author]) -> HashMap<Author, Publisher> {
        self.query(keys, publisher).await
    }

    /// The names of publishers.
    pub(crate) async fn publishers(&self, keys: &[Publisher]) -> HashMap<Publisher, usize> {
        self.query(keys, |publisher| publisher.0).await
    }
}

/// Loads authors.
pub(crate) struct Authors(pub(crate) Database);

impl tower_promises::loader::Loader for Authors {
    type Key = Author;
    type Value = Publisher;
    type Error = Infallible;

    async fn load(&self, keys: &[Author]) -> Result<HashMap<Author, Publisher>, Infallible> {
        Ok(self.0.authors(keys).await)
    }
}

/// Loads publishers.
pub(crate) struct Publishers(pub(crate) Database);

impl tower_promises::loader::Loader for Publishers {
    type Key = Publisher;
    type Value = usize;
    type Error = Infallible;

    async fn load(&self, keys: &[Publisher]) -> Result<HashMap<Publisher, usize>, Infallible> {
        Ok(self.0.publishers(keys).await)
    }
}

// async-graphql has one loader for several types of keys.

impl async_graphql::dataloader::Loader<Author> for Database {
    type Value = Publisher;
    type Error = Infallible;

    async fn load(&self, keys: &[Author]) -> Result<HashMap<Author, Publisher>, Infallible> {
        Ok(self.authors(keys).await)
    }
}

impl async_graphql::dataloader::Loader<Publisher> for Database {
    type Value = usize;
    type Error = Infallible;

    async fn load(&self, keys: &[Publisher]) -> Result<HashMap<Publisher, usize>, Infallible> {
        Ok(self.publishers(keys).await)
    }
}
