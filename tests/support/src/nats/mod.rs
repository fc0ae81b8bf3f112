//! A server of NATS with JetStream, for tests: on a free port, with a directory of its own.
//!
//! The tests need a `nats-server`. They run the one that the environment variable `NATS_SERVER` names, or else the first
//! on the path. `.ci/install` installs Debian's, and with `--newest` puts the newest into `target/nats-server/nats-server`.

pub mod servers;

use futures_util::StreamExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::sleep;
use tower_promises_nats::async_nats::jetstream::{self, stream::Info};
use tower_promises_nats::async_nats::{self, Client, ConnectOptions};
use tower_promises_nats::{NatsBackend, NatsBuilder};
use tower_promises::backend::{BackendError, BusEvent, BusStream};

pub use crate::eventually::{BOUND, PAUSE, eventually, line_after, soon, until};

pub const SECOND: Duration = Duration::from_secs(1);

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

pub struct Server {
    process: Option<Child>,
    directory: TempDir,
    port: u16,
    /// Keeps the port from others, also while the server is away.
    _reserved: Option<TcpSocket>,
    /// Further arguments of the server.
    arguments: Vec<String>,
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
        let mut server = Self::with(Vec::new());
        server.answers().await;
        server
    }

    /// Starts a server.
    fn with(arguments: Vec<String>) -> Self {
        let (port, reserved) = reserve();
        let mut server = Self {
            process: None,
            directory: tempfile::tempdir().unwrap(),
            port,
            _reserved: reserved,
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

    async fn answers(&mut self) {
        // Not `eventually`: a benchmark needs a future that is `Send`, which those of async closures are not in general.
        let answer = async {
            while !self.has_answered().await {
                sleep(PAUSE).await;
            }
        };
        soon(answer).await;
    }

    async fn has_answered(&mut self) -> bool {
        let ended = self.process.as_mut().unwrap().try_wait().unwrap();
        assert_eq!(ended, None, "nats-server ends before it answers");
        let Ok(client) = async_nats::connect(self.address()).await else {
            return false;
        };
        let answer = client.request("$JS.API.INFO", "".into()).await;
        answer.is_ok()
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

    /// Starts it again with nothing of what it has stored, as on a new disk.
    pub async fn start_empty(&mut self) {
        self.kill();
        self.directory = tempfile::tempdir().unwrap();
        self.start_again().await;
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

/// The next message.
pub async fn hear(listener: &mut BusStream) -> Result<BusEvent, BackendError> {
    soon(listener.next()).await.expect("it does not end")
}
