//! PgBouncer between tests and a server.

use super::{Program, directory, program, reserve, unprivileged};
use crate::eventually::until;
use std::fs;
use std::os::unix::fs::chown;
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};

/// PgBouncer, which gives each transaction one of a few connections to the server.
pub struct Pooler {
    _process: Program,
    _directory: TempDir,
    _reserved: TcpSocket,
    port: u16,
}

impl Pooler {
    /// Starts PgBouncer in transaction mode in front of the server on a port, and waits until it answers. It has two
    /// connections to the server for each database.
    pub async fn start(server: u16) -> Self {
        let directory = directory();
        let (port, reserved) = reserve();
        let path = directory.path().join("pgbouncer.ini");
        let folder = directory.path().display();
        let users = directory.path().join("users");
        let config = format!(
            "[databases]\n\
            * = host=127.0.0.1 port={server}\n\
            [pgbouncer]\n\
            listen_addr = 127.0.0.1\n\
            listen_port = {port}\n\
            unix_socket_dir = {folder}\n\
            auth_type = trust\n\
            auth_file = {folder}/users\n\
            pool_mode = transaction\n\
            default_pool_size = 2\n\
            max_client_conn = 2000\n"
        );
        for (path, text) in [(&path, &*config), (&users, "\"test\" \"\"\n")] {
            fs::write(path, text).unwrap();
            if let Some((user, group)) = unprivileged() {
                chown(path, Some(user), Some(group)).unwrap();
            }
        }
        let arguments = ["-q".to_owned(), path.display().to_string()];
        let process = Program::start(Some(directory.path()), &program("pgbouncer"), &arguments);
        until("an answer of PgBouncer", async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Self {
            _process: process,
            _directory: directory,
            _reserved: reserved,
            port,
        }
    }

    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://test@127.0.0.1:{}/{database}", self.port)
    }
}
