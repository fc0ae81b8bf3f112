//! The process that one starts. It starts the others, and starts them again when they end.

use crate::control::{Command as Order, How, SIGNAL};
use crate::nats;
use crate::web::{MEMBERS, WEB};
use std::collections::HashMap;
use std::env;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tower_promises::{BoxError, Signals};

/// A process that ends takes this long to come back.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a member may take to end in an orderly way.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process that runs. To wait for a [`Child`] closes its standard input, so that is kept apart.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
}

impl From<Child> for Running {
    fn from(mut child: Child) -> Self {
        Self {
            input: child.stdin.take(),
            child,
        }
    }
}

/// How a process is started: this program, in another role.
struct Start {
    name: &'static str,
    role: &'static str,
    arguments: Vec<String>,
    address: Option<String>,
    backend: String,
    nats_url: String,
}

impl Start {
    /// Starts it, and waits until it listens if it does so.
    async fn start(&mut self) -> Result<Running, BoxError> {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg(self.role)
            .args(&self.arguments)
            .env("NAME", self.name)
            .env("BACKEND", &self.backend)
            .env("NATS_URL", &self.nats_url)
            // It ends when this pipe is closed: by this process, or with it.
            .stdin(Stdio::piped())
            .kill_on_drop(true);
        let Some(address) = &mut self.address else {
            return Ok(command.spawn()?.into());
        };
        let mut child = command
            .env("ADDR", &*address)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("its output is not a pipe")?;
        let line = BufReader::new(output).lines().next_line().await?;
        let line = line.unwrap_or_default();
        let bound = line.strip_prefix("listening on ");
        // The next time it has the same address, or nobody would find it.
        *address = bound
            .ok_or_else(|| format!("{} does not listen", self.name))?
            .into();
        Ok(child.into())
    }

    /// Starts it again whenever it has ended or somebody wants to.
    async fn keep_alive(mut self, mut running: Running, mut orders: mpsc::Receiver<How>) {
        let name = self.name;
        loop {
            let ordered = tokio::select! {
                ended = running.child.wait() => {
                    eprintln!("{name} has ended: {ended:?}");
                    None
                }
                how = orders.recv() => how,
            };
            match ordered {
                Some(How::Restart) => {
                    eprintln!("{name} is restarted");
                    drop(running.input.take());
                    let _ = timeout(PATIENCE, running.child.wait()).await;
                }
                Some(How::Kill) => {
                    eprintln!("{name} is killed");
                    // So that the page from which it is killed can still answer.
                    sleep(Duration::from_millis(100)).await;
                }
                None => {}
            }
            // It has ended already, or does now.
            let _ = running.child.kill().await;
            running = loop {
                sleep(PAUSE).await;
                match self.start().await {
                    Ok(running) => break running,
                    Err(error) => eprintln!("{name} does not start: {error}"),
                }
            };
        }
    }
}

pub(crate) async fn run() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let given = env::var("NATS_URL").ok();
    let backend = env::var("BACKEND").unwrap_or_else(|_| {
        if given.is_some() || nats::program().is_some() {
            return "nats".into();
        }
        let path = directory.path().join("cluster.db");
        format!("sqlite:{}", path.display())
    });
    let mut url = given.clone().unwrap_or_default();
    let start = |name, role, arguments, address: Option<&str>, url: &str| Start {
        name,
        role,
        arguments,
        address: address.map(str::to_owned),
        backend: backend.clone(),
        nats_url: url.to_owned(),
    };
    if backend == "nats" && given.is_none() {
        if nats::program().is_none() {
            return Err(nats::MISSING.into());
        }
        let store = vec![directory.path().display().to_string()];
        let mut server = start("nats-server", "nats", store, Some("127.0.0.1:0"), "");
        let running = server.start().await?;
        url = server.address.clone().unwrap_or_default();
        // It is not for others to end it.
        let (orders, ordered) = mpsc::channel(1);
        tokio::spawn(async move {
            server.keep_alive(running, ordered).await;
            drop(orders);
        });
    }
    // Before the members open it.
    let shared = crate::open(&backend, &url).await?;
    let signals = Signals::new(shared);
    let mut order = signals.wait::<Order>(SIGNAL);

    let mut members = HashMap::new();
    let mut addresses = Vec::new();
    for name in MEMBERS {
        let mut member = if WEB.contains(&name) {
            start(name, "web", Vec::new(), Some("127.0.0.1:0"), &url)
        } else {
            start(name, "worker", Vec::new(), None, &url)
        };
        let running = member.start().await?;
        addresses.extend(member.address.clone());
        let (orders, ordered) = mpsc::channel(1);
        members.insert(name, orders);
        tokio::spawn(member.keep_alive(running, ordered));
    }
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let mut proxy = start("proxy", "proxy", addresses, Some(&address), &url);
    let mut running = proxy.start().await?;
    greet(&proxy.address.unwrap_or_default());
    match &*backend {
        "nats" => println!("the processes share the NATS server at {url}"),
        file => println!("the processes share {file}; {}", nats::MISSING),
    }

    let obey = async {
        loop {
            let ordered = order.await;
            // Subscribed before the other one is obeyed, so that none is missed.
            order = signals.wait(SIGNAL);
            match ordered {
                Ok(Order { member, how }) => {
                    if let Some(orders) = members.get(&*member) {
                        // One that is on its way is enough.
                        let _ = orders.try_send(how);
                    }
                }
                Err(error) => {
                    eprintln!("no orders: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = obey => {}
        ended = running.child.wait() => return Err(format!("the proxy has ended: {ended:?}").into()),
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}

fn greet(address: &str) {
    println!("listening on http://{address}, try it in a browser, or");
    println!(
        "  curl -iL -H 'Accept: text/html' 'http://{address}/report?seconds=10'   # see `Location`"
    );
    println!("  curl -X POST 'http://{address}/burst?count=1000'           # short tasks");
    println!("  curl http://{address}/wait                                 # until somebody does");
    println!("  curl -X POST http://{address}/ring");
    println!(
        "  curl -X POST http://{address}/poison                       # kills its worker, three times"
    );
    for name in MEMBERS {
        println!(
            "  curl -X POST 'http://{address}/control?member={name}&how=kill'   # or how=restart"
        );
    }
}
