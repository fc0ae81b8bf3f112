//! A small cluster on one machine: a proxy, two instances of a web service and two workers, each in a process of its
//! own. Any instance can handle any request. Reports are made by the next free worker. If a worker is killed, the other
//! one takes over.
//!
//! Start it with `cargo run -p example-cluster`. `BACKEND` selects the shared backend: `nats`, `postgres:url` (a database
//! that is kept), `sqlite:path` (a file that is kept), or `sqlite` (a temporary file). The default is NATS if `NATS_URL`
//! names a server or the program `nats-server` is installed, and otherwise `sqlite`. Ctrl-C ends all processes and
//! deletes temporary files.

/// Writes a line to stderr at once. All processes share stderr, so the parts of several writes could mix.
macro_rules! log {
    ($($text:tt)*) => {
        crate::write_line(format!($($text)*))
    };
}

mod control;
mod jobs;
mod nats;
mod partner;
mod pauses;
mod proxy;
mod submitted;
mod supervisor;
mod web;
mod worker;

use serde::{Deserialize, Serialize};
use std::env;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tower_promises::BoxError;
use tower_promises::backend::Backend;
use tower_promises_nats::NatsBackend;
use tower_promises_postgres::PostgresDatabase;
use tower_promises_sqlite::SqliteDatabase;

/// A process of the cluster, as shown on the status page.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Member {
    name: Arc<str>,
    process: u32,
    /// A description of its current work.
    doing: String,
}

/// The time after which a member without a sign of life disappears.
const PRESENCE: Duration = Duration::from_secs(3);

impl Member {
    fn key(name: &str) -> String {
        format!("cluster/member/{name}")
    }

    /// Announces every second that this process is alive.
    async fn be_present(name: Arc<str>, backend: Backend, doing: impl Fn() -> String) {
        let mut ticks = tokio::time::interval(PRESENCE / 3);
        loop {
            ticks.tick().await;
            let member = Self {
                name: name.clone(),
                process: std::process::id(),
                doing: doing(),
            };
            let told = match serde_json::to_vec(&member) {
                Ok(member) => {
                    let key = Self::key(&name);
                    let put = backend.store().put(&key, member.into(), Some(PRESENCE));
                    put.await.map(drop).map_err(BoxError::from)
                }
                Err(error) => Err(error.into()),
            };
            if let Err(error) = told {
                log!("{name}: {error}");
            }
        }
    }
}

async fn backend() -> Result<Backend, BoxError> {
    open(&env::var("BACKEND")?, &env::var("NATS_URL")?).await
}

/// Opens the backend that all processes share.
async fn open(name: &str, nats_url: &str) -> Result<Backend, BoxError> {
    match name.split_once(':') {
        None if name == "nats" => Ok(NatsBackend::open(nats::connect(nats_url).await?)
            .await?
            .backend()),
        Some(("postgres", url)) => Ok(PostgresDatabase::connect(url).await?.backend()),
        Some(("sqlite", path)) => Ok(SqliteDatabase::open(path).await?.backend()),
        _ => Err(format!(
            "unknown backend `{name}`: it is `nats`, `postgres:url`, `sqlite` or `sqlite:path`"
        )
        .into()),
    }
}

/// Resolves when the parent closes the standard input of this process, or has ended for any reason.
async fn parent_gone() {
    let (gone, is_gone) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while std::io::stdin()
            .read(&mut buffer)
            .is_ok_and(|read| read > 0)
        {}
        drop(gone);
    });
    let _ = is_gone.await;
}

async fn run() -> Result<(), BoxError> {
    let name = || env::var("NAME").map(Arc::from);
    let role = env::args().nth(1);
    match role.as_deref() {
        None => supervisor::run().await,
        Some("web") => web::run(name()?, backend().await?).await,
        Some("worker") => worker::run(name()?, backend().await?).await,
        Some("nats") => nats::run().await,
        Some("proxy") => proxy::run(env::args().skip(2).collect()).await,
        Some(role) => Err(format!("unknown role `{role}`").into()),
    }
}

fn write_line(mut line: String) {
    line.push('\n');
    // A failure cannot be reported, because stderr is the last resort.
    let _ = io::stderr().write_all(line.as_bytes());
}

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else {
        return ExitCode::SUCCESS;
    };
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    match env::var("NAME") {
        Ok(name) => log!("{name}: {text}"),
        Err(_) => log!("{text}"),
    }
    ExitCode::FAILURE
}
