//! A proxy that gives each connection to the next instance that accepts it.

use crate::instances::Instance;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// How long a connection waits for an instance, if all of them are being started.
const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(50);

/// Connects to an instance. `turn` distributes the connections.
async fn connect(instances: &[Arc<Instance>], turn: usize) -> TcpStream {
    loop {
        for place in 0..instances.len() {
            let instance = &instances[(turn + place) % instances.len()];
            let Some(running) = instance.running() else {
                continue;
            };
            if let Ok(stream) = TcpStream::connect(running.address).await {
                return stream;
            }
        }
        sleep(PAUSE).await;
    }
}

pub(crate) async fn run(listener: TcpListener, instances: Vec<Arc<Instance>>) -> io::Result<()> {
    let instances: Arc<[_]> = instances.into();
    for turn in 0_usize.. {
        let (mut client, _) = listener.accept().await?;
        let instances = instances.clone();
        tokio::spawn(async move {
            if let Ok(mut instance) = timeout(PATIENCE, connect(&instances, turn)).await {
                // Fails if the client or the instance has gone.
                let _ = copy_bidirectional(&mut client, &mut instance).await;
            }
        });
    }
    Ok(())
}
