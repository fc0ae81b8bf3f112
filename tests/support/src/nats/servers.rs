//! A cluster of three NATS servers.

use super::{SECOND, Server, eventually, reserve, until};
use std::ops::{Index, IndexMut};
use tokio::net::TcpSocket;
use tower_promises_nats::async_nats::jetstream;
use tower_promises_nats::async_nats::{Client, ConnectOptions, ServerAddr};
use tower_promises_nats::{NatsBackend, NatsBuilder};

pub const SERVERS: usize = 3;

pub struct Servers {
    servers: [Server; SERVERS],
    /// Reserves the ports for the connections between the servers.
    _routes: [Option<TcpSocket>; SERVERS],
}

impl Servers {
    /// Starts the servers and waits until each of them answers.
    pub async fn start() -> Self {
        let mut servers = Self::run();
        for server in &mut servers.servers {
            server.answers().await;
        }
        servers
    }

    fn run() -> Self {
        let reserved: [_; SERVERS] = std::array::from_fn(|_| reserve());
        let all = reserved
            .each_ref()
            .map(|(port, _)| format!("nats://127.0.0.1:{port}"));
        let list = all.join(",");
        let servers = std::array::from_fn(|number| {
            let name = format!("server-{number}");
            let arguments = [
                "--name",
                &name,
                "--cluster_name",
                "cluster",
                "--cluster",
                &all[number],
                "--routes",
                &list,
            ];
            Server::with(arguments.map(str::to_owned).to_vec())
        });
        Self {
            servers,
            _routes: reserved.map(|(_, socket)| socket),
        }
    }

    /// Returns a client that connects to another server when its server is killed.
    pub async fn client(&self) -> Client {
        let addresses = self.servers.iter().map(Server::address);
        let addresses: Vec<ServerAddr> = addresses.map(|it| it.parse().unwrap()).collect();
        let options = ConnectOptions::new()
            .reconnect_delay_callback(|_| SECOND / 20)
            .retry_on_initial_connect();
        let client = options.connect(addresses).await.unwrap();
        client.flush().await.unwrap();
        client
    }

    /// Returns a builder with a replica of everything on each server.
    pub async fn builder(&self) -> NatsBuilder {
        NatsBackend::builder(self.client().await).replicas(SERVERS)
    }

    /// Opens a backend as soon as the servers form a cluster.
    pub async fn open(&self) -> NatsBackend {
        let builder = self.builder().await;
        eventually("streams in the cluster", async || {
            builder.clone().open().await.ok()
        })
        .await
    }

    /// Waits until each server has all streams, so that the next server may be lost.
    pub async fn have_caught_up(&self, streams: &[&str]) {
        for name in streams {
            until("the servers have caught up", async || {
                let context = jetstream::new(self.client().await);
                let Ok(stream) = context.get_stream(name).await else {
                    return false;
                };
                let Some(cluster) = &stream.cached_info().cluster else {
                    return false;
                };
                let current = cluster.replicas.iter().filter(|it| it.current);
                cluster.leader.is_some() && current.count() == SERVERS - 1
            })
            .await;
        }
    }
}

impl Index<usize> for Servers {
    type Output = Server;

    fn index(&self, number: usize) -> &Server {
        &self.servers[number]
    }
}

impl IndexMut<usize> for Servers {
    fn index_mut(&mut self, number: usize) -> &mut Server {
        &mut self.servers[number]
    }
}
