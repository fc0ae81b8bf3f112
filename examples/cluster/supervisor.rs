//! The process that one starts. It starts the others, and starts them again when they end.

use crate::control::{Command as Order, How, SIGNAL};
use crate::web::{MEMBERS, WEB};
use std::collections::HashMap;
use std::env;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tower_promises::{BoxError, Signals};

/// A process that ends takes this long to come back.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a member may take to end in an orderly way.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a process is started: this program, in another role.
struct Start {
    name: &'static str,
    role: &'static str,
    arguments: Vec<String>,
    address: Option<String>,
    backend: String,
}

impl Start {
    /// Starts it, and waits until it listens if it does so.
    async fn start(&mut self) -> Result<Child, BoxError> {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg(self.role)
            .args(&self.arguments)
            .env("NAME", self.name)
            .env("BACKEND", &self.backend)
            // It ends when this pipe is closed: by this process, or with it.
            .stdin(Stdio::piped())
            .kill_on_drop(true);
        let Some(address) = &mut self.address else {
            return Ok(command.spawn()?);
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
        Ok(child)
    }

    /// Starts it again whenever it has ended or somebody wants to.
    async fn keep_alive(mut self, mut child: Child, mut orders: mpsc::Receiver<How>) {
        let name = self.name;
        loop {
            let ordered = tokio::select! {
                ended = child.wait() => {
                    eprintln!("{name} has ended: {ended:?}");
                    None
                }
                how = orders.recv() => how,
            };
            match ordered {
                Some(How::Restart) => {
                    eprintln!("{name} is restarted");
                    drop(child.stdin.take());
                    let _ = timeout(PATIENCE, child.wait()).await;
                }
                Some(How::Kill) => {
                    eprintln!("{name} is killed");
                    // So that the page from which it is killed can still answer.
                    sleep(Duration::from_millis(100)).await;
                }
                None => {}
            }
            // It has ended already, or does now.
            let _ = child.kill().await;
            child = loop {
                sleep(PAUSE).await;
                match self.start().await {
                    Ok(child) => break child,
                    Err(error) => eprintln!("{name} does not start: {error}"),
                }
            };
        }
    }
}

pub(crate) async fn run() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let backend = env::var("BACKEND").unwrap_or_else(|_| {
        let path = directory.path().join("cluster.db");
        format!("sqlite:{}", path.display())
    });
    let start = |name, role, arguments, address: Option<&str>| Start {
        name,
        role,
        arguments,
        address: address.map(str::to_owned),
        backend: backend.clone(),
    };
    // Before the members open it.
    let shared = crate::open(&backend).await?;
    let signals = Signals::new(shared);
    let mut order = signals.wait::<Order>(SIGNAL);

    let mut members = HashMap::new();
    let mut addresses = Vec::new();
    for name in MEMBERS {
        let mut member = if WEB.contains(&name) {
            start(name, "web", Vec::new(), Some("127.0.0.1:0"))
        } else {
            start(name, "worker", Vec::new(), None)
        };
        let child = member.start().await?;
        addresses.extend(member.address.clone());
        let (orders, ordered) = mpsc::channel(1);
        members.insert(name, orders);
        tokio::spawn(member.keep_alive(child, ordered));
    }
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let mut proxy = start("proxy", "proxy", addresses, Some(&address));
    let mut child = proxy.start().await?;
    greet(&proxy.address.unwrap_or_default(), &backend);

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
        ended = child.wait() => return Err(format!("the proxy has ended: {ended:?}").into()),
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}

fn greet(address: &str, backend: &str) {
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
    println!("the processes share {backend}");
}
