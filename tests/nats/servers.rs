//! Three servers of NATS that are one cluster.

use super::{PAUSE, SECOND, Server, free_port, until};
use std::ops::{Index, IndexMut};
use tokio::time::sleep;
use tower_promises::backend::nats::async_nats::jetstream;
use tower_promises::backend::nats::async_nats::{Client, ConnectOptions, ServerAddr};
use tower_promises::backend::nats::{NatsBackend, NatsBuilder};

pub const SERVERS: usize = 3;

pub struct Servers([Server; SERVERS]);

impl Servers {
    /// Starts the servers, and waits until the cluster makes streams.
    pub async fn start() -> Self {
        for _ in 0..5 {
            let mut servers = Self::run();
            let mut answer = true;
            for server in &mut servers.0 {
                answer &= server.answers().await;
            }
            if answer {
                return servers;
            }
        }
        panic!("the cluster does not start");
    }

    fn run() -> Self {
        let routes: [u16; SERVERS] = std::array::from_fn(|_| free_port());
        let all = routes.map(|port| format!("nats://127.0.0.1:{port}"));
        let list = all.join(",");
        Self(std::array::from_fn(|number| {
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
            Server::with(free_port(), arguments.map(str::to_owned).to_vec())
        }))
    }

    /// A client that goes to another server when its own is gone.
    pub async fn client(&self) -> Client {
        let addresses = self.0.iter().map(Server::address);
        let addresses: Vec<ServerAddr> = addresses.map(|it| it.parse().unwrap()).collect();
        let options = ConnectOptions::new()
            .reconnect_delay_callback(|_| SECOND / 20)
            .retry_on_initial_connect();
        let client = options.connect(addresses).await.unwrap();
        client.flush().await.unwrap();
        client
    }

    /// A builder with a copy of everything on each server.
    pub async fn builder(&self) -> NatsBuilder {
        NatsBackend::builder(self.client().await).replicas(SERVERS)
    }

    /// Opens a backend, as soon as the servers have found each other.
    pub async fn open(&self) -> NatsBackend {
        let builder = self.builder().await;
        for _ in 0..600 {
            if let Ok(backend) = builder.clone().open().await {
                return backend;
            }
            sleep(PAUSE * 10).await;
        }
        panic!("the cluster makes no streams");
    }

    /// Waits until each server has all of the streams, so that the next one may be lost.
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
        &self.0[number]
    }
}

impl IndexMut<usize> for Servers {
    fn index_mut(&mut self, number: usize) -> &mut Server {
        &mut self.0[number]
    }
}
