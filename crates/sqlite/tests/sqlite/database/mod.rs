//! Code that the tests of the SQLite adapters share. Each test file uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used)]

use futures_util::StreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, query_scalar};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tower_promises_backend::{BusEvent, BusStream, Change, WatchStream};

pub use test_support::eventually::{soon, until};
pub use test_support::remote::Process;
pub use test_support::task::chain;

pub const SECOND: Duration = Duration::from_secs(1);

/// Longer than any test, as an interval of polls or as a lease.
pub const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// A path in a directory of its own.
pub struct Place {
    pub directory: TempDir,
    pub path: PathBuf,
}

pub fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared.db");
    Place { directory, path }
}

/// Starts another process with a database.
pub fn start(path: &Path) -> Process {
    Process::start(path.to_str().unwrap())
}

/// Opens a connection like another program.
pub async fn connect(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    options.create_if_missing(true).connect().await.unwrap()
}

pub async fn number(path: &Path, sql: &'static str) -> i64 {
    let mut connection = connect(path).await;
    query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

pub async fn hear(listener: &mut BusStream) -> BusEvent {
    soon(listener.next()).await.unwrap().unwrap()
}

pub async fn see(watch: &mut WatchStream) -> Change {
    soon(watch.next()).await.unwrap().unwrap()
}

pub fn message(topic: &str, payload: &'static str) -> BusEvent {
    BusEvent::Message {
        topic: topic.into(),
        payload: payload.into(),
    }
}
