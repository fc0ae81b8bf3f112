//! A PostgreSQL server for tests, on a free port and with a directory of its own, and PgBouncer in front of it.
//!
//! The tests need the programs of PostgreSQL, in a folder of the path or of Debian, and `pgbouncer`. `.ci/install`
//! installs them. The programs refuse to run as root, and then run as the user `postgres` or `nobody`. They end with the
//! process of the test, also if that is killed.

pub mod pooler;
pub mod standby;

use crate::eventually::{PAUSE, soon};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::sleep;
use tower_promises_postgres::sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use tower_promises_postgres::sqlx::{ConnectOptions, raw_sql};
use tower_promises_postgres::{PostgresBuilder, PostgresDatabase, sqlx};

pub const SECOND: Duration = Duration::from_secs(1);

const NEEDED: &str = "PostgreSQL and PgBouncer are needed for this test: .ci/install installs them";

/// Runs a program until the standard input ends, which happens when the process of the test ends, however it ends. The
/// first argument is the signal that ends the program, the second a folder to be deleted then, or nothing. A background
/// program gets no standard input, so the input is descriptor 3.
const WITH_PARENT: &str = r#"exec 3<&0
signal=$1 folder=$2; shift 2
"$@" </dev/null & child=$!
(cat >/dev/null; kill -s "$signal" "$child"; sleep 10; kill -s KILL "$child") <&3 2>/dev/null & watch=$!
wait "$child"
kill "$watch"
[ -z "$folder" ] || rm -rf "$folder""#;

/// A server. It is shut down on drop.
pub struct Server {
    process: Option<Program>,
    directory: TempDir,
    port: u16,
    /// Reserves the port while the server is not running.
    _reserved: TcpSocket,
    settings: Vec<String>,
    /// Whether the server is never dropped.
    is_shared: bool,
}

/// A running program, which ends with this value and with this process.
struct Program {
    shell: Child,
    input: Option<ChildStdin>,
}

impl Program {
    /// Starts a program that ends at `INT`. The folder is deleted when it has ended.
    fn start(folder: Option<&Path>, program: &Path, arguments: &[String]) -> Self {
        let folder = folder.map_or_else(String::new, |folder| folder.display().to_string());
        let mut command = Command::new("sh");
        command
            .args(["-c", WITH_PARENT, "sh", "INT", &folder])
            .args(as_user(program, arguments))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut shell = command.spawn().expect(NEEDED);
        let input = shell.stdin.take();
        Self { shell, input }
    }

    fn has_ended(&mut self) -> bool {
        self.shell.try_wait().unwrap().is_some()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The end of the input ends the program, and then the shell.
        drop(self.input.take());
        let _ = self.shell.wait();
    }
}

/// The command line of a program, as an unprivileged user if this process is root.
fn as_user(program: &Path, arguments: &[String]) -> Vec<String> {
    let mut line = Vec::new();
    if let Some(user) = unprivileged() {
        let ids = [format!("--reuid={}", user.0), format!("--regid={}", user.1)];
        line.push("setpriv".to_owned());
        line.extend(ids);
        line.push("--clear-groups".to_owned());
    }
    line.push(program.display().to_string());
    line.extend_from_slice(arguments);
    line
}

/// Runs a program to its end, as the unprivileged user.
fn run(folder: &Path, name: &str, arguments: &[String]) {
    let mut line = as_user(&program(name), arguments).into_iter();
    let mut command = Command::new(line.next().unwrap());
    let output = command.args(line).current_dir(folder).output();
    let output = output.expect(NEEDED);
    assert!(output.status.success(), "{output:?}");
}

/// The ids of the user and group that run the programs, `None` if this process is not root.
fn unprivileged() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        let output = Command::new("id").arg("-u").output().unwrap();
        if output.stdout != b"0\n" {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let find = |name: &str| {
            let user = users
                .lines()
                .find(|line| line.split(':').next() == Some(name))?;
            let mut fields = user.split(':').skip(2);
            let mut id = || fields.next()?.parse().ok();
            Some((id()?, id()?))
        };
        find("postgres").or_else(|| find("nobody"))
    })
}

/// Whether a server can be started.
pub fn is_installed() -> bool {
    find("postgres").is_some()
}

fn program(name: &str) -> PathBuf {
    find(name).expect(NEEDED)
}

/// The path of a program, in a folder of the path or of Debian.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let mut folders: Vec<PathBuf> = path.split(':').map(PathBuf::from).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<_> = versions.flatten().map(|version| version.path()).collect();
    versions.sort();
    folders.extend(versions.iter().rev().map(|version| version.join("bin")));
    let mut paths = folders.iter().map(|folder| folder.join(name));
    paths.find(|path| path.is_file())
}

/// A directory that the unprivileged user owns.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    if let Some((user, group)) = unprivileged() {
        chown(directory.path(), Some(user), Some(group)).unwrap();
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    directory
}

/// Returns a free port that no other process gets until the socket is dropped. A server can listen on the port
/// meanwhile.
fn reserve() -> (u16, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().port(), socket)
}

impl Server {
    /// Starts a server that writes to its disk without waiting for it, because only its process may crash in tests.
    pub async fn start() -> Self {
        Self::with(&["fsync=off"]).await
    }

    async fn start_shared() -> Self {
        let mut server = Self::prepare(&["fsync=off"]);
        server.is_shared = true;
        server.start_again().await;
        server
    }

    /// Starts a server with settings, and waits until it answers. Not an async function: a benchmark needs a `Send` future,
    /// which one with a slice of texts is not in general.
    pub fn with(settings: &[&str]) -> impl Future<Output = Self> + Send + use<> {
        let mut server = Self::prepare(settings);
        async move {
            server.start_again().await;
            server
        }
    }

    fn prepare(settings: &[&str]) -> Self {
        let directory = directory();
        let data = directory.path().join("data").display().to_string();
        let arguments = ["-D", &data, "-U", "test", "-A", "trust", "-E", "UTF8"];
        let arguments = arguments.map(str::to_owned).into_iter();
        let arguments: Vec<_> = arguments
            .chain(["--locale=C", "--no-sync"].map(str::to_owned))
            .collect();
        run(directory.path(), "initdb", &arguments);
        let (port, reserved) = reserve();
        Self {
            process: None,
            directory,
            port,
            _reserved: reserved,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            is_shared: false,
        }
    }

    /// Starts the server with the stored data, and waits until it answers.
    pub async fn start_again(&mut self) {
        let directory = self.directory.path().display().to_string();
        let mut settings = vec![
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={directory}"),
            "max_connections=500".to_owned(),
            "shared_buffers=64MB".to_owned(),
        ];
        settings.extend_from_slice(&self.settings);
        let mut arguments = vec!["-D".to_owned(), format!("{directory}/data")];
        for setting in settings {
            arguments.extend(["-c".to_owned(), setting]);
        }
        let folder = self.is_shared.then(|| self.directory.path());
        // `INT` is the fast shutdown, which ends all connections.
        self.process = Some(Program::start(folder, &program("postgres"), &arguments));
        // Not `eventually`, for the same reason.
        let answer = async {
            while self.options().connect().await.is_err() {
                let ended = self.process.as_mut().unwrap().has_ended();
                assert!(!ended, "the server ends before it answers");
                sleep(PAUSE).await;
            }
        };
        soon(answer).await;
    }

    /// Shuts the server down.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Ends all processes of the server at once, like a crash.
    pub fn crash(&mut self) {
        let data = self.directory.path().join("data").display().to_string();
        let arguments = ["stop", "-m", "immediate", "-D", &data].map(str::to_owned);
        run(self.directory.path(), "pg_ctl", &arguments);
        self.process = None;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the default database.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://test@127.0.0.1:{}/{database}", self.port)
    }

    pub fn options(&self) -> PgConnectOptions {
        self.url()
            .parse::<PgConnectOptions>()
            .unwrap()
            .disable_statement_logging()
    }

    /// Opens a connection like another program.
    pub async fn connection(&self) -> PgConnection {
        soon(self.options().connect()).await.unwrap()
    }

    /// Executes statements on a connection of their own.
    pub fn execute<'a>(&'a self, sql: &str) -> impl Future<Output = Vec<PgRow>> + Send + use<'a> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        async move {
            let mut connection = self.connection().await;
            soon(raw_sql(sql).fetch_all(&mut connection)).await.unwrap()
        }
    }

    /// Creates an empty database, and returns its address.
    pub async fn database(&self) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::SeqCst));
        self.execute(&format!("CREATE DATABASE {name}")).await;
        self.url_of(&name)
    }

    pub async fn open(&self, builder: PostgresBuilder) -> PostgresDatabase {
        builder.connect(&self.url()).await.unwrap()
    }
}

/// The server that the tests of a binary share. It runs until the process ends.
pub async fn shared() -> &'static Server {
    static SERVER: tokio::sync::OnceCell<Server> = tokio::sync::OnceCell::const_new();
    SERVER.get_or_init(Server::start_shared).await
}
