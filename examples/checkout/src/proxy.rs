//! A proxy that gives each connection to the next instance that accepts it.

use crate::instances::Instance;
use std::io;
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Connects to an instance. `turn` distributes the connections.
async fn connect(instances: &[Arc<Instance>], turn: usize) -> Option<TcpStream> {
    for place in 0..instances.len() {
        let instance = &instances[(turn + place) % instances.len()];
        let Some(running) = instance.running() else {
            continue;
        };
        if let Ok(stream) = TcpStream::connect(running.address).await {
            return Some(stream);
        }
    }
    None
}

pub(crate) async fn run(listener: TcpListener, instances: Vec<Arc<Instance>>) -> io::Result<()> {
    let instances: Arc<[_]> = instances.into();
    for turn in 0_usize.. {
        let (mut client, _) = listener.accept().await?;
        let instances = instances.clone();
        tokio::spawn(async move {
            if let Some(mut instance) = connect(&instances, turn).await {
                // Fails if the client or the instance has gone.
                let _ = copy_bidirectional(&mut client, &mut instance).await;
            }
        });
    }
    Ok(())
}
