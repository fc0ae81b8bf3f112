//! The NATS server of the cluster, and the connection to it.

use crate::parent_gone;
use std::env;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tower_promises::BoxError;
use tower_promises_nats::async_nats::{self, Client, ConnectOptions};

const PROGRAM: &str = "nats-server";

/// The hint that is shown if there is no server.
pub(crate) const MISSING: &str = "for NATS, which connects many machines, install the program `nats-server` (Debian \
                                  and Ubuntu: the package `nats-server`, Homebrew: `nats-server`) or set `NATS_URL`";

/// Returns the path of the program, if it is installed.
pub(crate) fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs servers in a folder that is not in the `PATH` of users.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders
        .map(|folder| folder.join(PROGRAM))
        .find(|program| program.is_file())
}

/// Connects, and reconnects when the connection is lost.
pub(crate) async fn connect(url: &str) -> Result<Client, BoxError> {
    let options = ConnectOptions::new()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(50 * u64::try_from(attempts).unwrap_or(20).min(20))
        });
    Ok(options.connect(url).await?)
}

/// Checks that a server answers.
pub(crate) async fn check(url: &str) -> Result<(), BoxError> {
    let connected = async_nats::connect(url).await;
    connected.map_err(|error| format!("no NATS server answers at {url}: {error}"))?;
    Ok(())
}

/// Runs the server until the parent of this process ends. A server without this process would outlive the parent, and
/// leave its directory behind.
pub(crate) async fn run() -> Result<(), BoxError> {
    let store = env::args()
        .nth(2)
        .ok_or("the directory of the server is missing")?;
    let address = env::var("ADDR")?;
    let (host, port) = address.rsplit_once(':').ok_or("the address has no port")?;
    // The server chooses a free port for -1.
    let port = if port == "0" { "-1" } else { port };
    let mut server = Command::new(program().ok_or(MISSING)?)
        .args(["-js", "-sd", &store, "-a", host, "-p", port])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let log = server.stderr.take().ok_or("its log is not a pipe")?;
    let mut lines = BufReader::new(log).lines();
    let read = async {
        while let Some(line) = lines.next_line().await? {
            // The server prints `Listening for client connections on 127.0.0.1:4222` when it is ready.
            if let Some((_, address)) = line.split_once("client connections on ") {
                println!("listening on {address}");
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = read => ended,
        () = parent_gone() => {
            server.kill().await?;
            Ok(std::fs::remove_dir_all(store)?)
        }
    }
}
