//! An example, started as a process.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running example. Killed, as by `kill -9`, when it is dropped.
pub struct Example {
    pub process: Child,
    pub url: String,
    pub client: reqwest::Client,
    /// What it has written to stdout after where it listens.
    output: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Example {
    /// Starts an example on a free port and reads from its output where it listens.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// With variables of the environment, too.
    pub fn start_with(name: &str, environment: &[(&str, &str)]) -> Self {
        let mut process = Command::new(binary(name))
            .env("ADDR", "127.0.0.1:0")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let url = line.trim().split_once("listening on ").unwrap().1;
        let url = url.split(',').next().unwrap().to_owned();
        // To the end, or the process could not write.
        let rest = Arc::new(Mutex::new(String::new()));
        let shared = rest.clone();
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut rest = shared.lock().unwrap();
                rest.push_str(&line);
                rest.push('\n');
            }
        });
        Self {
            process,
            url,
            client: reqwest::Client::new(),
            output: rest,
            reader: Some(reader),
        }
    }

    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Lets it end as Ctrl-C does, and returns all that it has written.
    pub fn interrupt(mut self) -> String {
        let id = self.process.id().to_string();
        let kill = Command::new("kill").args(["-INT", &id]).status();
        assert!(kill.unwrap().success());
        assert!(self.process.wait().unwrap().success());
        self.reader.take().unwrap().join().unwrap();
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

/// Builds the examples, which is no work where `cargo test` has done it, and says where one is.
pub fn binary(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        let build = Command::new(env!("CARGO"))
            .args(["build", "--examples", "--quiet"])
            .status();
        assert!(build.unwrap().success());
    });
    // This test is in `target/debug/deps`, the examples are in `target/debug/examples`.
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples").join(name)
}

/// Waits for something that another process does, and fails rather than wait for ever.
pub async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap();
}
