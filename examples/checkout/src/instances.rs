//! The processes of the shop, which are killed and started again.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tower_promises::BoxError;

const PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy)]
pub(crate) struct Running {
    pub(crate) process: u32,
    pub(crate) address: SocketAddr,
}

/// An instance of the shop.
pub(crate) struct Instance {
    pub(crate) name: &'static str,
    running: Mutex<Option<Running>>,
    orders: mpsc::Sender<Kill>,
}

/// The order to kill an instance. It is answered when the process is dead.
type Kill = oneshot::Sender<()>;

impl Instance {
    /// Starts an instance, and starts it again whenever it has ended.
    pub(crate) async fn start(
        name: &'static str,
        backend: &str,
        world: &str,
    ) -> Result<Arc<Self>, BoxError> {
        let (sender, orders) = mpsc::channel(1);
        let instance = Arc::new(Self {
            name,
            running: Mutex::new(None),
            orders: sender,
        });
        let environment = vec![
            ("NAME", name.to_owned()),
            ("BACKEND", backend.to_owned()),
            ("WORLD", world.to_owned()),
        ];
        let child = instance.begin(&environment).await?;
        tokio::spawn(instance.clone().keep_alive(child, environment, orders));
        Ok(instance)
    }

    pub(crate) fn running(&self) -> Option<Running> {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_running(&self, running: Option<Running>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    /// Kills the process, as by `kill -9`, and waits until it is dead.
    pub(crate) async fn kill(&self) {
        let (dead, is_dead) = oneshot::channel();
        if self.orders.send(dead).await.is_ok() {
            let _ = is_dead.await;
        }
    }

    /// Starts the process and waits until it listens.
    async fn begin(&self, environment: &[(&str, String)]) -> Result<Child, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("shop")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            // The process ends when this pipe is closed, so also if the supervisor is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().ok_or("its output is not a pipe")?;
        let line = BufReader::new(output).lines().next_line().await?;
        let line = line.unwrap_or_default();
        let address = line.strip_prefix("listening on ");
        let address = address.ok_or_else(|| format!("{} does not listen", self.name))?;
        self.set_running(Some(Running {
            process: child.id().unwrap_or_default(),
            address: address.parse()?,
        }));
        Ok(child)
    }

    async fn keep_alive(
        self: Arc<Self>,
        mut child: Child,
        environment: Vec<(&'static str, String)>,
        mut orders: mpsc::Receiver<Kill>,
    ) {
        loop {
            // Waiting for a child closes its standard input, so the input is kept.
            let input = child.stdin.take();
            let ended: io::Result<()> = tokio::select! {
                ended = child.wait() => ended.map(drop),
                Some(dead) = orders.recv() => {
                    let killed = child.kill().await;
                    self.set_running(None);
                    let _ = dead.send(());
                    killed
                }
            };
            drop(input);
            self.set_running(None);
            match ended {
                Ok(()) => eprintln!("{} has ended", self.name),
                Err(error) => eprintln!("{} has ended: {error}", self.name),
            }
            child = loop {
                sleep(PAUSE).await;
                match self.begin(&environment).await {
                    Ok(child) => break child,
                    Err(error) => eprintln!("{} does not start: {error}", self.name),
                }
            };
        }
    }
}
