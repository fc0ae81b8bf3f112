//! Replicas of a server, and an address that leads to one server after another.

use super::{Server, directory, reserve, run};
use crate::eventually::until;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower_promises_postgres::sqlx::Row;

impl Server {
    /// Starts a hot standby, which follows this server over a connection, and waits until it answers. It has none of the
    /// settings of this server.
    ///
    /// # Panics
    ///
    /// Panics if this server cannot be copied.
    pub async fn standby(&self) -> Self {
        let directory = directory();
        let data = directory.path().join("data").display().to_string();
        // The copy contains the address of this server and the file that makes a server a standby.
        let address = format!("host=127.0.0.1 port={} user=test", self.port);
        let arguments = ["-D", &data, "-d", &address, "-R", "-c", "fast", "--no-sync"];
        run(
            directory.path(),
            "pg_basebackup",
            &arguments.map(str::to_owned),
        );
        let (port, reserved) = reserve();
        let mut standby = Self {
            process: None,
            directory,
            port,
            _reserved: reserved,
            settings: vec!["fsync=off".to_owned()],
            is_shared: false,
        };
        standby.start_again().await;
        standby
    }

    /// Makes a standby a primary server, and waits until it accepts writes. The server that it has followed must not run
    /// any more.
    pub async fn promote(&self) {
        self.execute("SELECT pg_promote()").await;
        until("the standby is promoted", async || {
            let rows = self.execute("SELECT pg_is_in_recovery()").await;
            !rows[0].get::<bool, _>(0)
        })
        .await;
    }

    /// Waits until a standby has all that is committed on this server.
    pub async fn is_followed_by(&self, standby: &Self) {
        let rows = self
            .execute("SELECT pg_current_wal_flush_lsn()::text")
            .await;
        let position: String = rows[0].get(0);
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        until("the standby has caught up", async || {
            let rows = standby.execute(&replayed).await;
            rows[0].get::<bool, _>(0)
        })
        .await;
    }

    /// Ends the connections of a database, like an administrator.
    pub async fn disconnect_all(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname IS NOT NULL AND pid <> pg_backend_pid()";
        self.execute(end).await;
    }
}

/// An address that leads to a server, and later to another one, as a name or a virtual address does at a failover.
pub struct Address {
    port: u16,
    server: watch::Sender<u16>,
}

impl Address {
    /// # Panics
    ///
    /// Panics if no port is free.
    pub async fn of(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (server, current) = watch::channel(server.port);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let port = *current.borrow();
                tokio::spawn(async move {
                    // Without a server the client finds its connection closed.
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = client.set_nodelay(true);
                        let _ = server.set_nodelay(true);
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { port, server }
    }

    /// Makes new connections lead to another server. Connections that are open stay.
    pub fn lead_to(&self, server: &Server) {
        self.server.send_replace(server.port);
    }

    /// The address of the default database.
    pub fn url(&self) -> String {
        format!("postgres://test@127.0.0.1:{}/postgres", self.port)
    }
}
