//! A server of NATS with JetStream, for tests: on a free port, with a directory of its own.
//!
//! The tests need a `nats-server`. They run the one that the environment variable `NATS_SERVER` names, or else the first
//! on the path. `.ci/install` installs Debian's, and puts the newest into `target/nats-server/nats-server`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod servers;

use futures_util::StreamExt;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tower_promises::backend::nats::async_nats::jetstream::{self, stream::Info};
use tower_promises::backend::nats::async_nats::{self, Client, ConnectOptions};
use tower_promises::backend::nats::{NatsBackend, NatsBuilder};
use tower_promises::backend::{BackendError, BusEvent, BusStream};

pub const SECOND: Duration = Duration::from_secs(1);

/// The pause between two looks at another process.
pub const PAUSE: Duration = Duration::from_millis(10);

/// Longer than anything takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(120);

const NEEDED: &str = "nats-server is needed for this test: .ci/install installs it";

/// The server that `NATS_SERVER` names, or the one on the path.
pub fn command() -> Command {
    let server = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
    // Debian puts it where only administrators look.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let mut command = Command::new(server);
    command.env("PATH", path);
    command
}

/// A port that is free now. It may be taken by the time a server has it.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub struct Server {
    process: Option<Child>,
    directory: TempDir,
    port: u16,
    /// What it is told beside that.
    arguments: Vec<String>,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        // Of the ports that are free now, one may be taken by the time the server has it.
        for _ in 0..5 {
            let mut server = Self::with(free_port(), Vec::new());
            if server.answers().await {
                return server;
            }
        }
        panic!("nats-server does not start");
    }

    /// Starts a server.
    fn with(port: u16, arguments: Vec<String>) -> Self {
        let mut server = Self {
            process: None,
            directory: tempfile::tempdir().unwrap(),
            port,
            arguments,
        };
        server.run();
        server
    }

    fn run(&mut self) {
        let process = command()
            .args([
                "-a",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-js",
                "-sd",
            ])
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect(NEEDED));
    }

    async fn answers(&mut self) -> bool {
        let started = timeout(LONG, async {
            loop {
                if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                    return false;
                }
                if let Ok(client) = async_nats::connect(self.address()).await {
                    if client.request("$JS.API.INFO", "".into()).await.is_ok() {
                        return true;
                    }
                }
                sleep(PAUSE).await;
            }
        });
        started.await.unwrap_or(false)
    }

    pub fn address(&self) -> String {
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

    /// Starts it again with nothing of what it has stored, as on a new disk.
    pub async fn start_empty(&mut self) {
        self.kill();
        self.directory = tempfile::tempdir().unwrap();
        self.start_again().await;
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

    /// The first two numbers of its version.
    pub async fn version(&self) -> (u32, u32) {
        let version = self.client().await.server_info().version;
        let mut numbers = version.split('.').map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
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
    timeout(LONG, future).await.expect("it happens")
}

pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            sleep(PAUSE).await;
        }
    };
    let wait = timeout(LONG, wait).await;
    assert!(wait.is_ok(), "{what} never happens");
}

/// The next message.
pub async fn hear(listener: &mut BusStream) -> Result<BusEvent, BackendError> {
    soon(listener.next()).await.expect("it does not end")
}
