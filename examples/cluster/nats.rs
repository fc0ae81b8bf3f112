//! The NATS server of the cluster, and the connection to it.

use crate::parent_gone;
use std::env;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tower_promises::BoxError;
use tower_promises::backend::nats::async_nats::{Client, ConnectOptions};

const PROGRAM: &str = "nats-server";

/// What to do where there is no server.
pub(crate) const MISSING: &str = "for NATS, which connects many machines, install the program `nats-server` (Debian and \
                                  Ubuntu: the package `nats-server`, Homebrew: `nats-server`) or set `NATS_URL`";

/// Whether the program is there to be started.
pub(crate) fn is_installed() -> bool {
    // Some systems keep servers where the path of a user does not lead.
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&path);
    folders.any(|folder| folder.join(PROGRAM).is_file())
}

/// Connects, and connects again whenever the connection is lost.
pub(crate) async fn connect(url: &str) -> Result<Client, BoxError> {
    let options = ConnectOptions::new()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(50 * u64::try_from(attempts).unwrap_or(20).min(20))
        });
    Ok(options.connect(url).await?)
}

/// Runs the server until the parent of this process is gone: the server itself would outlive it.
pub(crate) async fn run() -> Result<(), BoxError> {
    let store = env::args()
        .nth(2)
        .ok_or("the directory of the server is missing")?;
    let address = env::var("ADDR")?;
    let (host, port) = address.rsplit_once(':').ok_or("the address has no port")?;
    // It chooses a free one itself.
    let port = if port == "0" { "-1" } else { port };
    let mut server = Command::new(PROGRAM)
        .args(["-js", "-sd", &store, "-a", host, "-p", port])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let log = server.stderr.take().ok_or("its log is not a pipe")?;
    let mut lines = BufReader::new(log).lines();
    let read = async {
        while let Some(line) = lines.next_line().await? {
            // `Listening for client connections on 127.0.0.1:4222`, once it is ready for them.
            if let Some((_, address)) = line.split_once("client connections on ") {
                println!("listening on {address}");
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = read => ended,
        () = parent_gone() => Ok(()),
    }
}
