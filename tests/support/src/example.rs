//! An example, started as a process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

pub use crate::eventually::{BOUND, eventually, soon, until};

/// A running example. It is killed on drop, as by `kill -9`.
pub struct Example {
    pub process: Child,
    pub url: String,
    pub client: reqwest::Client,
    /// The output on stdout after the line with the address.
    output: Arc<Mutex<String>>,
    /// The output on stderr.
    log: Arc<Mutex<String>>,
    readers: [JoinHandle<()>; 2],
}

impl Example {
    /// Starts a program on a free port and reads the address from its output.
    pub fn start(program: impl AsRef<OsStr>) -> Self {
        Self::start_with(program, &[])
    }

    /// Starts an example with additional environment variables.
    pub fn start_with(program: impl AsRef<OsStr>, environment: &[(&str, &str)]) -> Self {
        let mut command = command(program);
        command.envs(environment.iter().copied());
        Self::start_command(command)
    }

    /// Starts one role of an example. It ends with this process at the latest.
    pub fn start_role(program: impl AsRef<OsStr>, arguments: &[&str]) -> Self {
        let mut command = command(program);
        command.args(arguments).stdin(Stdio::piped());
        Self::start_command(command)
    }

    fn start_command(mut command: Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (output, log) = <(Arc<Mutex<String>>, Arc<Mutex<String>>)>::default();
        let (first, first_line) = mpsc::channel();
        let (shared, mut first) = (output.clone(), Some(first));
        // Both pipes are read to the end, because the process would block on a full pipe.
        let read_output = read_lines(process.stdout.take().unwrap(), move |line| {
            if let Some(first) = first.take() {
                return first.send(line).unwrap();
            }
            append(&shared, &line);
        });
        let shared = log.clone();
        let read_log = read_lines(process.stderr.take().unwrap(), move |line| {
            eprintln!("{line}");
            append(&shared, &line);
        });
        let client = reqwest::Client::builder().timeout(BOUND).build();
        let mut example = Self {
            process,
            url: String::new(),
            client: client.unwrap(),
            output,
            log,
            readers: [read_output, read_log],
        };
        let line = first_line.recv_timeout(BOUND);
        let line = line.unwrap_or_else(|error| panic!("the example does not listen: {error}"));
        let (_, url) = line.trim().split_once("listening on ").unwrap();
        let url = url.split(',').next().unwrap();
        example.url = match url.starts_with("http") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        example
    }

    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Ends the example as Ctrl-C does, and returns its whole output.
    pub async fn interrupt(mut self) -> String {
        let id = self.process.id().to_string();
        let kill = Command::new("kill").args(["-INT", &id]).status();
        assert!(kill.unwrap().success());
        let ended = async || self.process.try_wait().unwrap();
        assert!(eventually("the end of the example", ended).await.success());
        until("all is read", async || {
            self.readers.iter().all(JoinHandle::is_finished)
        })
        .await;
        self.output()
    }

    pub async fn get(&self, path: &str) -> String {
        let response = self.client.get(format!("{}{path}", self.url)).send().await;
        response
            .unwrap()
            .error_for_status()
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    pub async fn post(&self, path: &str, body: &'static str) -> (u16, String) {
        let request = self.client.post(format!("{}{path}", self.url)).body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("ADDR", "127.0.0.1:0");
    command
}

/// Calls a function with each line, in a thread of its own.
fn read_lines(
    from: impl Read + Send + 'static,
    mut read: impl FnMut(String) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            read(line);
        }
    })
}

fn append(text: &Mutex<String>, line: &str) {
    let mut text = text.lock().unwrap();
    text.push_str(line);
    text.push('\n');
}

/// Returns the path of an example of the package `tower-promises`, and builds the example if it is missing or older than
/// its sources. `cargo test` has usually built it. Another build may select other features, and compile much again.
pub fn binary(name: &str) -> PathBuf {
    static BUILD: Mutex<()> = Mutex::new(());

    let path = profile_directory().join("examples").join(name);
    let _turn = BUILD.lock().unwrap();
    if !is_fresh(&path) {
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "--package",
            "tower-promises",
            "--example",
            name,
        ]);
        // The variables that cargo sets for tests would cause build scripts and their dependents to be rebuilt.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&*name);
            }
        }
        assert!(build.status().unwrap().success());
    }
    path
}

/// The directory `target/debug`. The test is in `target/debug/deps`.
pub(crate) fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// Whether a program is newer than the sources that its `.d` file lists.
fn is_fresh(program: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let sources = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let sources = sources.split_once(": ").map_or("", |(_, sources)| sources);
    let built = modified(program);
    let mut sources = sources.split_whitespace().peekable();
    built.is_some()
        && sources.peek().is_some()
        && sources.all(|source| modified(Path::new(source)) <= built)
}
