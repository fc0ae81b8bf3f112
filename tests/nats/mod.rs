//! A server of NATS with JetStream, for tests: on a free port, with a directory of its own.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use futures_util::StreamExt;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;
use tower_promises::backend::nats::async_nats::jetstream::{self, stream::Info};
use tower_promises::backend::nats::async_nats::{self, Client, ConnectOptions};
use tower_promises::backend::nats::{NatsBackend, NatsBuilder};
use tower_promises::backend::{BackendError, BusEvent, BusStream};

pub const SECOND: Duration = Duration::from_secs(1);

pub struct Server {
    process: Option<Child>,
    directory: TempDir,
    port: u16,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        // Of the ports that are free now, one may be taken by the time the server has it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
            let mut server = Self {
                process: None,
                directory: tempfile::tempdir().unwrap(),
                port: port.unwrap().port(),
            };
            server.run();
            if server.answers().await {
                return server;
            }
        }
        panic!("nats-server does not start");
    }

    fn run(&mut self) {
        // Debian puts it where only administrators look.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
        let process = Command::new("nats-server")
            .env("PATH", path)
            .args([
                "-a",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-js",
                "-sd",
            ])
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process =
            process.expect("nats-server is needed for this test: .ci/install installs it");
        self.process = Some(process);
    }

    async fn answers(&mut self) -> bool {
        let started = timeout(SECOND * 20, async {
            loop {
                if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
                if let Ok(client) = async_nats::connect(self.address()).await {
                    if client.request("$JS.API.INFO", "".into()).await.is_ok() {
                        return true;
                    }
                }
                tokio::task::yield_now().await;
            }
        });
        started.await.unwrap_or(false)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again, with what it has stored.
    pub async fn start_again(&mut self) {
        self.run();
        assert!(self.answers().await, "the server starts again");
    }

    pub async fn client(&self) -> Client {
        // Tests of a restart do not wait for longer and longer pauses.
        let options = ConnectOptions::new().reconnect_delay_callback(|_| SECOND / 20);
        options.connect(self.address()).await.unwrap()
    }

    pub async fn builder(&self) -> NatsBuilder {
        NatsBackend::builder(self.client().await)
    }

    pub async fn backend(&self) -> NatsBackend {
        NatsBackend::open(self.client().await).await.unwrap()
    }

    /// What the server has to say about a stream.
    pub async fn stream(&self, name: &str) -> Info {
        let context = jetstream::new(self.client().await);
        let stream = context.get_stream(name).await.unwrap();
        stream.cached_info().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What an event of another process or thread leads to, or a failure.
pub async fn soon<F: Future>(future: F) -> F::Output {
    timeout(SECOND * 30, future).await.expect("it happens")
}

pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    let wait = timeout(SECOND * 30, wait).await;
    assert!(wait.is_ok(), "{what} never happens");
}

/// The next message.
pub async fn hear(listener: &mut BusStream) -> Result<BusEvent, BackendError> {
    soon(listener.next()).await.expect("it does not end")
}
