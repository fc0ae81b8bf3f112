//! Processes that work while the clock of the machine is set forward and back.
//!
//! The other processes run this program again, each with a clock of its own: libfaketime reads the offset of the clock
//! from a file. The tests need that library, which `.ci/install` installs.
#![allow(clippy::unwrap_used)]

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use axum::routing::post;
use std::fs;
use std::future::pending;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::nats::{BOUND, SECOND, Server};
use tokio::io::AsyncBufReadExt;
use tokio::time::timeout;
use tower::ServiceExt;
use tower_promises_backend::{Backend, Envelope, Outcome, Receipt};
use tower_promises_nats::NatsBackend;
use tower_promises_nats::async_nats;
use tower_promises_operations::OperationLayer;
use tower_promises_sqlite::SqliteDatabase;

/// The environment variable with the backend of a process: a path, or `nats:` and the address of a server.
const PLACE: &str = "TEST_PLACE";

/// The steps of the clock, in seconds. They exceed every duration in these tests.
const FORWARD: &str = "+6000";
const BACK: &str = "-6000";

/// The path of the library on Debian, below a folder for libraries.
const LIBRARY: &str = "faketime/libfaketime.so.1";

/// A machine: its clock, as its processes see it, and the backend that they share.
struct Machine {
    clock: PathBuf,
    place: String,
    server: Option<Server>,
    _directory: TempDir,
}

impl Machine {
    fn with_sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("shared.db");
        Self::new(directory, place.to_str().unwrap().to_owned(), None)
    }

    /// Starts a server, which keeps the real clock, as on another machine.
    async fn with_nats() -> Self {
        let server = Server::start().await;
        let place = format!("nats:{}", server.address());
        Self::new(tempfile::tempdir().unwrap(), place, Some(server))
    }

    fn new(directory: TempDir, place: String, server: Option<Server>) -> Self {
        let machine = Self {
            clock: directory.path().join("clock"),
            place,
            server,
            _directory: directory,
        };
        machine.set("+0");
        machine
    }

    /// Sets the clock to an offset from the real time, in seconds.
    fn set(&self, clock: &str) {
        // The file is replaced at once, so no process reads a part of it.
        let new = self.clock.with_extension("new");
        fs::write(&new, clock).unwrap();
        fs::rename(new, &self.clock).unwrap();
    }

    fn process(&self) -> Process {
        Process::start(&self.place, &self.clock)
    }
}

/// Another process, which executes commands.
struct Process {
    child: Child,
    input: ChildStdin,
    /// The answers of the process. A thread reads them, so that waiting for an answer has a timeout.
    answers: Receiver<String>,
}

impl Process {
    fn start(place: &str, clock: &Path) -> Self {
        let libraries = ["/usr/lib", "/usr/local/lib", "/usr/lib64"].map(PathBuf::from);
        let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
        let library = libraries
            .iter()
            .flat_map(|folder| [folder.join(&machine), folder.clone()])
            .map(|folder| folder.join(LIBRARY))
            .find(|library| library.is_file())
            .expect("libfaketime is needed for this test: .ci/install installs it");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--nocapture"])
            .env(PLACE, place)
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Self {
            input: child.stdin.take().unwrap(),
            answers: answers(child.stdout.take().unwrap()),
            child,
        };
        assert_eq!(process.answer(), "ready");
        process
    }

    fn answer(&mut self) -> String {
        let answer = self.answers.recv_timeout(BOUND);
        answer.expect("the other process answers")
    }

    fn tell(&mut self, what: &str) -> String {
        writeln!(self.input, "{what}").unwrap();
        self.answer()
    }

    /// Returns the time that the process sees, in seconds.
    fn time(&mut self) -> i64 {
        self.tell("time").parse().unwrap()
    }

    /// Sends `STOP` or `CONT` to the process.
    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status();
        assert!(sent.unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Returns the answers in the output of a process, until the output ends.
fn answers(output: ChildStdout) -> Receiver<String> {
    let (sender, answers) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Some((_, answer)) = line.trim_end().split_once("answer: ") else {
                continue;
            };
            if sender.send(answer.to_owned()).is_err() {
                return;
            }
        }
    });
    answers
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The main function of the other processes. It does nothing without the environment variable.
#[tokio::test]
async fn the_other_process() {
    let Ok(place) = std::env::var(PLACE) else {
        return;
    };
    let backend = match place.strip_prefix("nats:") {
        Some(address) => {
            let client = async_nats::connect(address).await.unwrap();
            let nats = NatsBackend::builder(client).pull_expiry(SECOND / 4);
            nats.open().await.unwrap().backend()
        }
        None => SqliteDatabase::open(place).await.unwrap().backend(),
    };
    let layer = OperationLayer::new(backend.clone()).wait(Duration::ZERO);
    let app = Router::new()
        .route("/", post(async || pending::<()>().await))
        .layer(layer);
    println!("answer: ready");
    // Reading is asynchronous, so that the runtime can run other tasks meanwhile.
    let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let answer = match line.split_once(' ') {
            Some(("post", path)) => operation(&app, Method::POST, path).await,
            Some(("status", path)) => operation(&app, Method::GET, path).await,
            _ => follow(&backend, &line).await,
        };
        println!("answer: {answer}");
    }
}

/// Sends a request. Returns the path, the status and the error of its operation.
async fn operation(app: &Router, method: Method, path: &str) -> String {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("accept", "application/json");
    let response = app
        .clone()
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    let location = response.headers().get("location").cloned();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let location = location.map_or(path.to_owned(), |it| it.to_str().unwrap().to_owned());
    format!("{location} {} {}", document["status"], document["error"])
}

async fn follow(backend: &Backend, line: &str) -> String {
    let words: Vec<_> = line.splitn(3, ' ').collect();
    let milliseconds = |text: &str| Duration::from_millis(text.parse().unwrap());
    let (store, queue) = (backend.store(), backend.queue());
    match words[..] {
        ["time"] => {
            let time = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            time.as_secs().to_string()
        }
        ["put", key, time] => {
            let time = (time != "forever").then(|| milliseconds(time));
            store.put(key, "value".into(), time).await.unwrap();
            "done".to_owned()
        }
        ["get", key] => match store.get(key).await.unwrap() {
            Some(_) => "present".to_owned(),
            None => "absent".to_owned(),
        },
        ["enqueue", id, delay] => {
            let envelope = Envelope::new("work", id, "x".into()).delay(milliseconds(delay));
            format!("{:?}", queue.enqueue(envelope).await.unwrap())
        }
        ["take", lease, wait] => {
            let take = queue.take("work", 1, milliseconds(lease));
            match timeout(milliseconds(wait), take).await {
                Ok(taken) => {
                    let taken = taken.unwrap().remove(0);
                    format!("{} {}", taken.id, taken.receipt.as_str())
                }
                Err(_) => "nothing".to_owned(),
            }
        }
        ["renew", lease, receipt] => {
            let receipt = Receipt::new(receipt);
            let renewed = queue.renew(&receipt, milliseconds(lease));
            renewed.await.unwrap().to_string()
        }
        ["settle", receipt] => done(backend, receipt).await,
        ["settle", first, rest] => done(backend, &format!("{first} {rest}")).await,
        _ => panic!("what is `{line}`?"),
    }
}

async fn done(backend: &Backend, receipt: &str) -> String {
    let receipt = Receipt::new(receipt);
    let settled = backend.queue().settle(&receipt, Outcome::Done);
    settled.await.unwrap().to_string()
}

const MINUTE: &str = "60000";

/// In milliseconds. Longer than a test, and shorter than the step of the clock.
const HOUR: &str = "3600000";

/// Returns a timeout that no call reaches, in milliseconds.
fn long() -> String {
    BOUND.as_millis().to_string()
}

/// Splits an answer: the id of an envelope and the receipt of its lease, or the path of an operation and its state.
fn taken(answer: &str) -> (&str, &str) {
    answer.split_once(' ').expect(answer)
}

/// Takes envelopes in a process that runs while the clock is set, and in a process that starts afterwards.
async fn envelopes_without_delay_are_due(machine: &Machine) {
    let (mut here, mut there) = (machine.process(), machine.process());
    for (number, clock) in [BACK, FORWARD, "+0", BACK].into_iter().enumerate() {
        let id = number.to_string();
        assert_eq!(here.tell(&format!("enqueue {id} 0")), "Added");
        let before = here.time();
        machine.set(clock);
        let step = here.time() - before;
        assert!(step.abs() > 500, "the clock is set: {step}");
        let mut later = machine.process();
        let taker = if number % 2 == 0 {
            &mut there
        } else {
            &mut later
        };
        let answer = taker.tell(&format!("take {MINUTE} {}", long()));
        let (found, receipt) = taken(&answer);
        assert_eq!(found, id);
        assert_eq!(taker.tell(&format!("settle {receipt}")), "true");
        // The same for an envelope that is enqueued afterwards.
        let id = format!("{id}/after");
        assert_eq!(there.tell(&format!("enqueue {id} 0")), "Added");
        let answer = here.tell(&format!("take {MINUTE} {}", long()));
        let (found, receipt) = taken(&answer);
        assert_eq!(found, id);
        assert_eq!(here.tell(&format!("settle {receipt}")), "true");
    }
}

#[tokio::test]
async fn envelopes_without_delay_are_due_in_sqlite() {
    envelopes_without_delay_are_due(&Machine::with_sqlite()).await;
}

#[tokio::test]
async fn envelopes_without_delay_are_due_in_nats() {
    envelopes_without_delay_are_due(&Machine::with_nats().await).await;
}

/// No process sees that the clock is set.
#[tokio::test]
async fn envelopes_without_delay_are_due_after_all_processes_were_gone() {
    let machine = Machine::with_sqlite();
    let mut before = machine.process();
    assert_eq!(before.tell("enqueue id 0"), "Added");
    before.kill();
    machine.set(BACK);
    let answer = machine.process().tell(&format!("take {MINUTE} {}", long()));
    assert_eq!(taken(&answer).0, "id");
}

/// Checks that a lease, a claim in the store and a delay end neither early nor late.
async fn durations_stay_the_same(machine: &Machine) {
    let (mut owner, mut other) = (machine.process(), machine.process());
    // When the clock is set forward, active leases, values and delays stay in force.
    assert_eq!(owner.tell("enqueue leased 0"), "Added");
    let answer = owner.tell(&format!("take {HOUR} {}", long()));
    let (_, receipt) = taken(&answer);
    assert_eq!(owner.tell(&format!("enqueue delayed {HOUR}")), "Added");
    assert_eq!(owner.tell(&format!("put claim {HOUR}")), "done");
    machine.set(FORWARD);
    assert_eq!(other.tell("get claim"), "present");
    assert_eq!(owner.tell("get claim"), "present");
    let early = other.tell(&format!("take {MINUTE} 1500"));
    assert_eq!(early, "nothing");
    assert_eq!(owner.tell(&format!("renew {HOUR} {receipt}")), "true");
    assert_eq!(machine.process().tell("get claim"), "present");
    assert_eq!(owner.tell(&format!("settle {receipt}")), "true");
    // When the clock is set back, they end in time.
    assert_eq!(owner.tell("enqueue crashed 0"), "Added");
    let answer = owner.tell(&format!("take 2000 {}", long()));
    assert_eq!(taken(&answer).0, "crashed");
    assert_eq!(owner.tell("put lease 2000"), "done");
    assert_eq!(owner.tell("enqueue soon 2000"), "Added");
    owner.kill();
    machine.set(BACK);
    let mut found = Vec::new();
    for _ in 0..2 {
        let answer = other.tell(&format!("take {MINUTE} {}", long()));
        let (id, _) = taken(&answer);
        found.push(id.to_owned());
    }
    found.sort();
    assert_eq!(found, ["crashed", "soon"]);
    let end = Instant::now() + BOUND;
    while other.tell("get lease") == "present" {
        assert!(Instant::now() < end, "the claim does not end in time");
        std::thread::sleep(test_support::nats::PAUSE);
    }
}

/// A process that opens the file after the clock was set, and before any other process makes a call, uses the time of
/// the machine. The next call of an older process corrects this time, also for processes that start later.
#[test]
fn the_clock_of_a_new_process_is_corrected() {
    let machine = Machine::with_sqlite();
    let mut owner = machine.process();
    assert_eq!(owner.tell("enqueue leased 0"), "Added");
    let answer = owner.tell(&format!("take {HOUR} {}", long()));
    let (_, receipt) = taken(&answer);
    assert_eq!(owner.tell(&format!("put claim {HOUR}")), "done");
    assert_eq!(owner.tell(&format!("enqueue delayed {HOUR}")), "Added");
    machine.set(FORWARD);
    let mut second = machine.process();
    assert_eq!(second.tell("put other 1000"), "done");
    assert_eq!(second.tell("enqueue new 0"), "Added");
    // This call corrects the clock.
    assert_eq!(owner.tell("get claim"), "present");
    let mut third = machine.process();
    assert_eq!(third.tell("get claim"), "present");
    // The envelope is due, although its time stems from the wrong clock.
    let answer = third.tell(&format!("take {MINUTE} {}", long()));
    let (id, _) = taken(&answer);
    assert_eq!(id, "new");
    assert_eq!(third.tell(&format!("take {MINUTE} 1500")), "nothing");
    assert_eq!(owner.tell(&format!("renew {HOUR} {receipt}")), "true");
    assert_eq!(owner.tell(&format!("settle {receipt}")), "true");
}

/// An operation or a claim that begins after the correction is not lost for processes that start later.
#[test]
fn work_that_begins_after_a_correction_is_not_lost() {
    let machine = Machine::with_sqlite();
    let mut owner = machine.process();
    machine.set(FORWARD);
    let mut second = machine.process();
    assert_eq!(second.tell("put other 1000"), "done");
    let answer = owner.tell("post /");
    let (path, _) = taken(&answer);
    let mut third = machine.process();
    for process in [&mut third, &mut second, &mut owner] {
        let answer = process.tell(&format!("status {path}"));
        assert!(answer.contains("Running"), "{answer}");
    }
    assert_eq!(owner.tell("put claim 60000"), "done");
    assert_eq!(third.tell("get claim"), "present");
}

/// A process that sees the end of a lease by a wrong clock gives the owner time to renew the lease.
#[test]
fn work_is_not_lost_at_the_first_check() {
    let machine = Machine::with_sqlite();
    let mut owner = machine.process();
    let answer = owner.tell("post /");
    let (path, _) = taken(&answer);
    let status = format!("status {path}");
    // Stops the owner, so that its calls do not correct the clock.
    owner.signal("STOP");
    machine.set(FORWARD);
    let mut second = machine.process();
    let answer = second.tell(&status);
    assert!(answer.contains("Running"), "{answer}");
    owner.signal("CONT");
    for process in [&mut owner, &mut second, &mut machine.process()] {
        let answer = process.tell(&status);
        assert!(answer.contains("Running"), "{answer}");
    }
}

/// Checks that other processes declare an operation lost only after its process has ended.
async fn running_work_is_not_lost(machine: &Machine) {
    let (mut owner, mut other) = (machine.process(), machine.process());
    let answer = owner.tell("post /");
    let (path, state) = taken(&answer);
    assert!(!state.contains("Failed"), "{answer}");
    for clock in [FORWARD, BACK, "+0", FORWARD] {
        machine.set(clock);
        for process in [&mut other, &mut machine.process()] {
            let answer = process.tell(&format!("status {path}"));
            assert!(answer.contains("Running"), "{clock}: {answer}");
        }
    }
    owner.kill();
    machine.set(BACK);
    let end = Instant::now() + BOUND;
    loop {
        let answer = other.tell(&format!("status {path}"));
        if !answer.contains("Running") {
            // The path of its result.
            assert!(answer.contains("/result 500"), "{answer}");
            break;
        }
        assert!(
            Instant::now() < end,
            "the operation is not declared lost: {answer}"
        );
        std::thread::sleep(test_support::nats::PAUSE * 10);
    }
}

#[tokio::test]
async fn running_work_is_not_lost_in_sqlite() {
    running_work_is_not_lost(&Machine::with_sqlite()).await;
}

#[tokio::test]
async fn running_work_is_not_lost_in_nats() {
    running_work_is_not_lost(&Machine::with_nats().await).await;
}

#[tokio::test]
async fn durations_stay_the_same_in_sqlite() {
    durations_stay_the_same(&Machine::with_sqlite()).await;
}

#[tokio::test]
async fn durations_stay_the_same_in_nats() {
    let machine = Machine::with_nats().await;
    durations_stay_the_same(&machine).await;
    assert!(machine.server.is_some(), "the server ran during the test");
}

/// The clock of one machine is 100 minutes ahead of the server's clock, that of another is 100 minutes behind.
#[tokio::test]
async fn machines_need_not_agree_with_the_server() {
    let machine = Machine::with_nats().await;
    let [mut ahead, mut behind] = [FORWARD, BACK].map(|clock| {
        let file = machine.clock.with_extension(clock);
        fs::write(&file, clock).unwrap();
        Process::start(&machine.place, &file)
    });
    let difference = ahead.time() - behind.time();
    assert!(difference > 1000, "the clocks differ: {difference}");
    assert_eq!(behind.tell("put key 2000"), "done");
    assert_eq!(ahead.tell(&format!("put claim {MINUTE}")), "done");
    assert_eq!(behind.tell("get claim"), "present");
    assert_eq!(machine.process().tell("get claim"), "present");
    let end = Instant::now() + BOUND;
    while behind.tell("get key") == "present" {
        assert!(Instant::now() < end, "the value does not end in time");
        std::thread::sleep(test_support::nats::PAUSE);
    }
}
