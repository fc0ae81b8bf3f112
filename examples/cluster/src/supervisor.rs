//! The main process. It starts the other processes, and restarts them when they end.

use crate::control::{self, How};
use crate::nats;
use crate::pauses::Pauses;
use crate::web::{MEMBERS, WEB};
use futures_util::future::join_all;
use std::env;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_promises::BoxError;
use tower_promises::signals::Signals;

/// The pause between two attempts to receive commands.
const PAUSE: Duration = Duration::from_secs(1);

/// The time for a process to shut down before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time for a process to listen. A process that takes longer is killed and started again.
const START_TIME: Duration = Duration::from_secs(60);

/// A running process.
struct Running {
    process: Option<Process>,
    left: Left,
}

/// Waiting for a [`Child`] closes its standard input, so the input is kept separately.
struct Process {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
}

/// Processes whose future was dropped while they started or ran. They end with the supervisor.
#[derive(Clone, Default)]
struct Left(Arc<Mutex<Vec<Process>>>);

impl Running {
    fn new(name: &'static str, mut child: Child, left: &Left) -> Self {
        let input = child.stdin.take();
        Self {
            process: Some(Process { name, child, input }),
            left: left.clone(),
        }
    }

    /// Resolves when the process has ended by itself.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        match &mut self.process {
            Some(process) => process.child.wait().await,
            None => pending().await,
        }
    }

    async fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.child.kill().await;
        }
    }

    /// Lets the process shut down, and kills it after [`PATIENCE`].
    async fn end(mut self) {
        if let Some(process) = self.process.take() {
            process.end().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            self.left.list().push(process);
        }
    }
}

impl Process {
    async fn end(mut self) {
        drop(self.input.take());
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

impl Left {
    fn list(&self) -> MutexGuard<'_, Vec<Process>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends them all, in an orderly way.
    async fn end(&self) {
        let processes = std::mem::take(&mut *self.list());
        let end = processes.into_iter().map(|process| async {
            let name = process.name;
            process.end().await;
            log!("{name} is ended too");
        });
        join_all(end).await;
    }
}

/// Returns the path of this program. On Linux the path stays valid if a build replaces the file.
fn program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    env::current_exe()
}

/// The parameters of a process: this program in another role.
struct Start {
    name: &'static str,
    role: &'static str,
    arguments: Vec<String>,
    address: Option<Address>,
    backend: String,
    nats_url: String,
    left: Left,
}

/// The address of a process.
struct Address {
    name: String,
    /// Reserves the port while the process is not running.
    _reserved: Option<TcpSocket>,
}

impl Address {
    fn given(name: String) -> Self {
        Self {
            name,
            _reserved: None,
        }
    }

    /// Returns a free port of this machine.
    fn free() -> io::Result<Self> {
        // Other systems do not let a process listen on a port that another socket is bound to.
        if !cfg!(target_os = "linux") {
            return Ok(Self::given("127.0.0.1:0".into()));
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        Ok(Self {
            name: socket.local_addr()?.to_string(),
            _reserved: Some(socket),
        })
    }
}

impl Start {
    /// Starts the process and waits until it listens, if it has an address.
    async fn start(&mut self) -> Result<Running, BoxError> {
        let mut command = Command::new(program()?);
        command
            .arg(self.role)
            .args(&self.arguments)
            .env("NAME", self.name)
            .env("BACKEND", &self.backend)
            .env("NATS_URL", &self.nats_url)
            // Closing this pipe, or ending this process, ends the child.
            .stdin(Stdio::piped());
        // In a process group of its own, because Ctrl-C must only reach this process, which ends the others in order.
        #[cfg(unix)]
        command.process_group(0).arg0("cluster");
        let Some(address) = &mut self.address else {
            return Ok(Running::new(self.name, command.spawn()?, &self.left));
        };
        let mut child = command
            .env("ADDR", &address.name)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take();
        // From here on the child is killed and waited for, even if this future is dropped.
        let mut running = Running::new(self.name, child, &self.left);
        let output = output.ok_or("its output is not a pipe")?;
        let mut lines = BufReader::new(output).lines();
        let Ok(line) = timeout(START_TIME, lines.next_line()).await else {
            running.kill().await;
            let seconds = START_TIME.as_secs();
            return Err(format!("{} does not listen within {seconds} seconds", self.name).into());
        };
        let line = line?.unwrap_or_default();
        let bound = line.strip_prefix("listening on ");
        // A restarted process uses the same address, which the proxy knows.
        address.name = bound
            .ok_or_else(|| format!("{} does not listen", self.name))?
            .into();
        Ok(running)
    }

    /// Returns the address of the process, empty if it does not listen.
    fn listens_at(&self) -> String {
        let address = self.address.as_ref();
        address.map_or_else(String::new, |address| address.name.clone())
    }

    /// Restarts the process when it has ended or on command, until the cluster ends.
    async fn keep_alive(mut self, mut running: Running, signals: Option<Signals>, mut end: End) {
        let name = self.name;
        let mut pauses = Pauses::new();
        loop {
            pauses.has_started();
            let ordered = tokio::select! {
                ended = running.wait() => {
                    match ended {
                        Ok(status) => log!("{name} has ended: {status}"),
                        Err(error) => log!("{name} has ended: {error}"),
                    }
                    None
                }
                how = order(name, signals.as_ref()) => Some(how),
                _ = end.changed() => return running.end().await,
            };
            if ordered.is_some() {
                pauses.reset();
            }
            match ordered {
                Some(How::Restart) => {
                    log!("{name} is restarted");
                    running.end().await;
                }
                Some(How::Kill) => {
                    log!("{name} is killed");
                    // Gives the instance time to answer the request that kills it.
                    sleep(Duration::from_millis(100)).await;
                    running.kill().await;
                }
                None => {}
            }
            running = tokio::select! {
                running = self.start_again(&mut pauses) => running,
                _ = end.changed() => return,
            };
        }
    }

    /// Starts the process, with increasing pauses between attempts.
    async fn start_again(&mut self, pauses: &mut Pauses) -> Running {
        loop {
            let pause = pauses.next();
            log!("{} starts again in {:.1} s", self.name, pause.as_secs_f32());
            sleep(pause).await;
            match self.start().await {
                Ok(running) => return running,
                Err(error) => log!("{} does not start: {error}", self.name),
            }
        }
    }

    /// Starts the process like [`start_again`](Self::start_again), but without a pause before the first attempt.
    async fn start_first(&mut self) -> Running {
        match self.start().await {
            Ok(running) => running,
            Err(error) => {
                log!("{} does not start: {error}", self.name);
                self.start_again(&mut Pauses::new()).await
            }
        }
    }
}

/// Resolves when the cluster ends.
type End = watch::Receiver<()>;

/// Waits for a command for a process. Each process has a signal of its own, so commands do not interfere.
async fn order(name: &str, signals: Option<&Signals>) -> How {
    let Some(signals) = signals else {
        return pending().await;
    };
    loop {
        match signals.wait(&control::signal(name)).await {
            Ok(how) => return how,
            Err(error) => log!("no orders for {name}: {error}"),
        }
        sleep(PAUSE).await;
    }
}

/// Processes that are restarted when they end.
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

    /// Shuts all processes down.
    async fn end(mut self) {
        self.end.send_replace(());
        while self.processes.join_next().await.is_some() {}
    }
}

pub(crate) async fn run() -> Result<(), BoxError> {
    let directory = tempfile::tempdir()?;
    let (mut server, mut members) = (Kept::new(), Kept::new());
    let left = Left::default();
    let ended = tokio::select! {
        ended = serve(directory.path(), &mut server, &mut members, &left) => ended,
        interrupted = interrupted() => interrupted,
    };
    members.end().await;
    left.end().await;
    // The members need the server until they have ended.
    server.end().await;
    left.end().await;
    ended
}

/// Resolves on Ctrl-C or a termination signal.
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

/// Starts all processes and keeps them running until the proxy ends.
async fn serve(
    directory: &Path,
    server: &mut Kept,
    members: &mut Kept,
    left: &Left,
) -> Result<(), BoxError> {
    let given = env::var("NATS_URL").ok().filter(|url| !url.is_empty());
    let has_nats = given.is_some() || nats::program().is_some();
    let default = if has_nats { "nats" } else { "sqlite" };
    let mut backend = env::var("BACKEND").unwrap_or_else(|_| default.into());
    if backend == "sqlite" {
        backend = format!("sqlite:{}", directory.join("cluster.db").display());
    }
    let mut url = given.clone().unwrap_or_default();
    let start = |name, role, arguments, address: Option<Address>, url: &str| Start {
        name,
        role,
        arguments,
        address,
        backend: backend.clone(),
        nats_url: url.to_owned(),
        left: left.clone(),
    };
    if backend == "nats" && given.is_none() {
        if nats::program().is_none() {
            return Err(nats::MISSING.into());
        }
        let store = vec![directory.display().to_string()];
        let address = Some(Address::free()?);
        let mut start = start("nats-server", "nats", store, address, "");
        let running = start.start().await?;
        url = start.listens_at();
        // The status page cannot end the server.
        server.keep(start, running, None);
    }
    if backend == "nats" {
        nats::check(&url).await?;
    }
    // Creates the streams and tables before the members open them.
    let shared = crate::open(&backend, &url).await?;
    let signals = Signals::new(shared);
    signals.listen().await?;

    let mut addresses = Vec::new();
    for name in MEMBERS {
        let mut member = if WEB.contains(&name) {
            start(name, "web", Vec::new(), Some(Address::free()?), &url)
        } else {
            start(name, "worker", Vec::new(), None, &url)
        };
        let running = member.start_first().await;
        if member.address.is_some() {
            addresses.push(member.listens_at());
        }
        members.keep(member, running, Some(signals.clone()));
    }
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let instances = WEB.iter().zip(addresses.clone());
    let address = Some(Address::given(address));
    let mut proxy = start("proxy", "proxy", addresses, address, &url);
    let mut running = proxy.start().await?;
    greet(&proxy.listens_at());
    for (name, address) in instances {
        println!("{name} is at {address}");
    }
    match &*backend {
        "nats" => println!("the processes share the NATS server at {url}"),
        // Without the address, which may contain a password.
        database if database.starts_with("postgres:") => {
            println!("the processes share a PostgreSQL database");
        }
        file if has_nats => println!("the processes share {file}"),
        file => println!("the processes share {file}; {}", nats::MISSING),
    }
    let ended = running.wait().await?;
    Err(format!("the proxy has ended: {ended}").into())
}

fn greet(address: &str) {
    println!("listening on http://{address}, try it in a browser, or");
    println!(
        "  curl -iL -H 'Accept: text/html' 'http://{address}/report?seconds=10'   # see `Location`"
    );
    println!("  curl -X POST 'http://{address}/burst?count=1000'           # short tasks");
    println!(
        "  curl http://{address}/wait                                 # until the next command"
    );
    println!("  curl -X POST http://{address}/ring");
    println!(
        "  curl -X POST http://{address}/poison                       # kills its worker, three times"
    );
    println!(
        "  curl -X POST 'http://{address}/partner?away=true'          # then `/synchronise` makes a dead letter"
    );
    println!(
        "  http://{address}/tasks                                     # all tasks, in a browser"
    );
    for name in MEMBERS {
        println!(
            "  curl -X POST 'http://{address}/control?member={name}&how=kill'   # or how=restart"
        );
    }
}
