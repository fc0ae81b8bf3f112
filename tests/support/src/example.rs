//! An example, started as a process.


use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Once, mpsc};
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
    /// Starts an example on a free port and reads the address from its output.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// Starts an example with additional environment variables.
    pub fn start_with(name: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = command(name);
        command.envs(environment.iter().copied());
        Self::start_command(command)
    }

    /// Starts one role of an example. It ends with this process at the latest.
    pub fn start_role(name: &str, arguments: &[&str]) -> Self {
        let mut command = command(name);
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

fn command(name: &str) -> Command {
    let mut command = Command::new(binary(name));
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

/// Builds the examples, which `cargo test` has usually done already, and returns the path of one.
pub fn binary(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--examples", "--quiet"]);
        // The variables that cargo sets for tests would cause build scripts and their dependents to be rebuilt.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&*name);
            }
        }
        assert!(build.status().unwrap().success());
    });
    // The test is in `target/debug/deps`, the examples are in `target/debug/examples`.
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples").join(name)
}
