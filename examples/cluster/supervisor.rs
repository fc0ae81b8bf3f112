//! The process that one starts. It starts the others, and starts them again when they end.

use crate::control::{self, How};
use crate::nats;
use crate::web::{MEMBERS, WEB};
use std::env;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
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

impl Running {
    /// Lets it end in an orderly way, if it does so in time.
    async fn end(mut self) {
        drop(self.input.take());
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

impl From<Child> for Running {
    fn from(mut child: Child) -> Self {
        Self {
            input: child.stdin.take(),
            child,
        }
    }
}

/// This program. In Linux it is found also when its file has been replaced, as a build does.
fn program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    env::current_exe()
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
        let mut command = Command::new(program()?);
        command
            .arg(self.role)
            .args(&self.arguments)
            .env("NAME", self.name)
            .env("BACKEND", &self.backend)
            .env("NATS_URL", &self.nats_url)
            // It ends when this pipe is closed: by this process, or with it.
            .stdin(Stdio::piped());
        // Ctrl-C is for this process, which ends the others in order.
        #[cfg(unix)]
        command.process_group(0).arg0("cluster");
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

    /// Starts it again whenever it has ended or somebody wants to, until all are to end.
    async fn keep_alive(mut self, mut running: Running, signals: Option<Signals>, mut end: End) {
        let name = self.name;
        loop {
            let ordered = tokio::select! {
                ended = running.child.wait() => {
                    match ended {
                        Ok(status) => eprintln!("{name} has ended: {status}"),
                        Err(error) => eprintln!("{name} has ended: {error}"),
                    }
                    None
                }
                how = order(name, signals.as_ref()) => Some(how),
                _ = end.changed() => return running.end().await,
            };
            match ordered {
                Some(How::Restart) => {
                    eprintln!("{name} is restarted");
                    running.end().await;
                }
                Some(How::Kill) => {
                    eprintln!("{name} is killed");
                    // So that the page from which it is killed can still answer.
                    sleep(Duration::from_millis(100)).await;
                    let _ = running.child.kill().await;
                }
                None => {}
            }
            running = tokio::select! {
                running = self.start_again() => running,
                _ = end.changed() => return,
            };
        }
    }

    async fn start_again(&mut self) -> Running {
        loop {
            sleep(PAUSE).await;
            match self.start().await {
                Ok(running) => return running,
                Err(error) => eprintln!("{} does not start: {error}", self.name),
            }
        }
    }
}

/// Resolves when all are to end.
type End = watch::Receiver<()>;

/// What is to become of a process. Each has a signal of its own, so orders for others do not get in its way.
async fn order(name: &str, signals: Option<&Signals>) -> How {
    let Some(signals) = signals else {
        return pending().await;
    };
    loop {
        match signals.wait(&control::signal(name)).await {
            Ok(how) => return how,
            Err(error) => eprintln!("no orders for {name}: {error}"),
        }
        sleep(PAUSE).await;
    }
}

/// Processes that are kept alive.
struct Kept {
    end: watch::Sender<()>,
    processes: JoinSet<()>,
}

impl Kept {
    fn new() -> Self {
        Self {
            end: watch::Sender::new(()),
            processes: JoinSet::new(),
        }
    }

    fn keep(&mut self, start: Start, running: Running, signals: Option<Signals>) {
        let end = self.end.subscribe();
        self.processes
            .spawn(start.keep_alive(running, signals, end));
    }

    /// Ends them all, in an orderly way.
    async fn end(mut self) {
        self.end.send_replace(());
        while self.processes.join_next().await.is_some() {}
    }
}

pub(crate) async fn run() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let (mut server, mut members) = (Kept::new(), Kept::new());
    let ended = tokio::select! {
        ended = serve(directory.path(), &mut server, &mut members) => ended,
        interrupted = interrupted() => interrupted,
    };
    members.end().await;
    // They need it up to their end.
    server.end().await;
    ended
}

/// Resolves when somebody wants the cluster to end.
async fn interrupted() -> Result<(), BoxError> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        }
    }
    #[cfg(not(unix))]
    Ok(tokio::signal::ctrl_c().await?)
}

/// Starts all processes, and keeps them alive until the proxy has ended.
async fn serve(directory: &Path, server: &mut Kept, members: &mut Kept) -> Result<(), BoxError> {
    let given = env::var("NATS_URL").ok().filter(|url| !url.is_empty());
    let has_nats = given.is_some() || nats::program().is_some();
    let default = if has_nats { "nats" } else { "sqlite" };
    let mut backend = env::var("BACKEND").unwrap_or_else(|_| default.into());
    if backend == "sqlite" {
        backend = format!("sqlite:{}", directory.join("cluster.db").display());
    }
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
        let store = vec![directory.display().to_string()];
        let mut start = start("nats-server", "nats", store, Some("127.0.0.1:0"), "");
        let running = start.start().await?;
        url = start.address.clone().unwrap_or_default();
        // It is not for others to end it.
        server.keep(start, running, None);
    }
    if backend == "nats" {
        nats::check(&url).await?;
    }
    // Before the members open it.
    let shared = crate::open(&backend, &url).await?;
    let signals = Signals::new(shared);
    signals.listen().await?;

    let mut addresses = Vec::new();
    for name in MEMBERS {
        let mut member = if WEB.contains(&name) {
            start(name, "web", Vec::new(), Some("127.0.0.1:0"), &url)
        } else {
            start(name, "worker", Vec::new(), None, &url)
        };
        let running = member.start().await?;
        addresses.extend(member.address.clone());
        members.keep(member, running, Some(signals.clone()));
    }
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let mut proxy = start("proxy", "proxy", addresses, Some(&address), &url);
    let mut running = proxy.start().await?;
    greet(&proxy.address.unwrap_or_default());
    match &*backend {
        "nats" => println!("the processes share the NATS server at {url}"),
        file if has_nats => println!("the processes share {file}"),
        file => println!("the processes share {file}; {}", nats::MISSING),
    }
    let ended = running.child.wait().await?;
    Err(format!("the proxy has ended: {ended}").into())
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
