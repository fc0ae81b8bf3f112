//! A server of NATS with JetStream, for tests: on a free port, with a directory of its own.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used)]

#[allow(
    clippy::duplicate_mod,
    reason = "binaries combine the modules that need it"
)]
#[path = "../support/eventually.rs"]
mod eventually;

use eventually::BOUND;
use futures_util::StreamExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tower_promises::backend::nats::async_nats::jetstream::{self, stream::Info};
use tower_promises::backend::nats::async_nats::{self, Client, ConnectOptions};
use tower_promises::backend::nats::{NatsBackend, NatsBuilder};
use tower_promises::backend::{BackendError, BusEvent, BusStream};

pub use eventually::{eventually, line_after, soon, until};

pub const SECOND: Duration = Duration::from_secs(1);

pub struct Server {
    process: Option<Child>,
    directory: TempDir,
    port: u16,
    /// Keeps the port from others, also while the server is away.
    _reserved: Option<TcpSocket>,
}

/// A free port that no connection and no other socket gets until the socket is dropped. A server can listen on it
/// meanwhile.
fn reserve() -> (u16, Option<TcpSocket>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    // Other systems let no server listen where this socket is.
    (port, cfg!(target_os = "linux").then_some(socket))
}

impl Server {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        let (port, reserved) = reserve();
        let mut server = Self {
            process: None,
            directory: tempfile::tempdir().unwrap(),
            port,
            _reserved: reserved,
        };
        server.start_again().await;
        server
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

    async fn answers(&mut self) {
        let address = self.address();
        eventually("an answer of nats-server", async || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "nats-server ends before it answers");
            let client = async_nats::connect(&address).await.ok()?;
            let answer = client.request("$JS.API.INFO", "".into()).await;
            answer.ok().map(drop)
        })
        .await;
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
        self.answers().await;
    }

    pub async fn client(&self) -> Client {
        // Tests of a restart do not wait for longer and longer pauses.
        let options = ConnectOptions::new()
            .connection_timeout(BOUND)
            .reconnect_delay_callback(|_| SECOND / 20);
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

/// The next message.
pub async fn hear(listener: &mut BusStream) -> Result<BusEvent, BackendError> {
    soon(listener.next()).await.expect("it does not end")
}
