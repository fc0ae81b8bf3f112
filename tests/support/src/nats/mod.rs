//! A NATS server with JetStream for tests, on a free port and with a directory of its own.
//!
//! The tests need a `nats-server`: the program in the environment variable `NATS_SERVER`, or else the first on the
//! path. `.ci/install` installs Debian's version. With `--newest` it puts the newest version into
//! `target/nats-server/nats-server`.

pub mod servers;

use futures_util::StreamExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::sleep;
use tower_promises::backend::{BackendError, BusEvent, BusStream};
use tower_promises_nats::async_nats::jetstream::{self, stream::Info};
use tower_promises_nats::async_nats::{self, Client, ConnectOptions};
use tower_promises_nats::{NatsBackend, NatsBuilder};

pub use crate::eventually::{BOUND, PAUSE, eventually, line_after, soon, until};

pub const SECOND: Duration = Duration::from_secs(1);

const NEEDED: &str = "nats-server is needed for this test: .ci/install installs it";

/// Returns the command of the program in `NATS_SERVER`, or of the first on the path.
pub fn command() -> Command {
    let server = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
    // Debian installs servers in a folder that is not in the `PATH` of users.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let mut command = Command::new(server);
    command.env("PATH", path);
    command
}

pub struct Server {
    process: Option<Child>,
    directory: TempDir,
    port: u16,
    /// Reserves the port while the server is not running.
    _reserved: Option<TcpSocket>,
    /// Further arguments of the server.
    arguments: Vec<String>,
}

/// Returns a free port that no other process gets until the socket is dropped. A server can listen on the port
/// meanwhile.
fn reserve() -> (u16, Option<TcpSocket>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    // Other systems do not let a server listen on a port that another socket is bound to.
    (port, cfg!(target_os = "linux").then_some(socket))
}

impl Server {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        let mut server = Self::with(Vec::new());
        server.answers().await;
        server
    }

    /// Starts a server without waiting for an answer.
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
        // Not `eventually`: a benchmark needs a `Send` future, which an async closure does not return in general.
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

    /// Kills the server, like a crash.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts the server again with the stored data.
    pub async fn start_again(&mut self) {
        self.run();
        self.answers().await;
    }

    /// Starts the server again without the stored data, as on a new disk.
    pub async fn start_empty(&mut self) {
        self.kill();
        self.directory = tempfile::tempdir().unwrap();
        self.start_again().await;
    }

    pub async fn client(&self) -> Client {
        // Reconnects without the growing pauses of the default, which would slow down tests.
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

    /// Returns the major and the minor version of the server.
    pub async fn version(&self) -> (u32, u32) {
        let version = self.client().await.server_info().version;
        let mut numbers = version.split('.').map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    /// Returns the server's information about a stream.
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

/// Returns the next message.
pub async fn hear(listener: &mut BusStream) -> Result<BusEvent, BackendError> {
    soon(listener.next())
        .await
        .expect("the stream does not end")
}
