//! The example `cluster`, started and ended in all ways.
#![allow(clippy::unwrap_used)]

mod browser;
mod proxy;
mod tasks;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use test_support::example::{Example, eventually, soon, until};
use test_support::postgres::Server;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;

/// Returns the members of the cluster with the ids of their processes. The id of a missing process is `None`.
async fn members(example: &Example) -> Vec<(String, Option<String>)> {
    let page = example.get("/").await;
    let rows = page.split("<tr id=\"").skip(1);
    let rows = rows.map(|row| {
        let mut cells = row.split("<td>").skip(1);
        let name = cells.next().unwrap().to_owned();
        let process = cells.next().unwrap().to_owned();
        (name, Some(process).filter(|process| !process.is_empty()))
    });
    rows.collect()
}

/// Waits until all processes of the cluster run, and `without` has been replaced.
async fn complete(example: &Example, without: Option<&str>) -> Vec<String> {
    eventually("a cluster with all processes", async || {
        let members = members(example).await;
        let processes: Vec<_> = members.into_iter().filter_map(|it| it.1).collect();
        let is_old = |process: &String| without.is_some_and(|old| old == process);
        (processes.len() == 4 && !processes.iter().any(is_old)).then_some(processes)
    })
    .await
}

#[tokio::test]
async fn cluster() {
    works(Example::start(env!("CARGO_BIN_EXE_cluster"))).await;
}

#[tokio::test]
async fn a_cluster_shares_a_postgres_database() {
    let server = Server::start().await;
    let backend = format!("postgres:{}", server.url());
    let environment = [("BACKEND", &*backend)];
    let example = Example::start_with(env!("CARGO_BIN_EXE_cluster"), &environment);
    assert!(!example.output().contains(&server.url()));
    works(example).await;
}

async fn works(example: Example) {
    let processes = complete(&example, None).await;

    // Any instance may answer a request, also a request for the operation.
    let url = format!("{}/report?seconds=2", example.url);
    let response = example.client.get(url).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 202);
    let path = response.headers()["operation-location"].to_str().unwrap();
    let mut instances = BTreeSet::new();
    eventually("the end of the report", async || {
        let document = example.client.get(format!("{}{path}", example.url));
        let document = document.send().await.unwrap();
        let instance = &document.headers()["x-served-by"];
        instances.insert(instance.to_str().unwrap().to_owned());
        let document: serde_json::Value = document.json().await.unwrap();
        if document["status"] == "Succeeded" {
            assert!(document["progress"].as_f64().unwrap() > 50.0);
            return Some(());
        }
        assert_eq!(document["status"], "Running");
        None
    })
    .await;
    assert_eq!(instances.len(), 2, "{instances:?}");
    let report = example.get(&format!("{path}/result")).await;
    assert!(
        report.starts_with("20 pages for visitor, by worker-"),
        "{report}"
    );
    assert!(report.ends_with("in attempt 1\n"), "{report}");

    // Rings until the waiting request is answered. The two requests may reach different instances.
    let ring = eventually("silence", async || {
        assert_eq!(example.post("/ring", "").await.0, 200);
        None::<()>
    });
    let heard = tokio::select! {
        heard = example.get("/wait") => heard,
        () = ring => unreachable!(),
    };
    assert!(heard.contains("has heard it"), "{heard}");

    // Before an instance ends, it answers the requests in progress, including the command to end.
    for (name, process) in ["web-1", "web-2"].into_iter().zip(&processes) {
        let order = format!("/control?member={name}&how=restart");
        assert_eq!(example.post(&order, "").await.0, 200);
        complete(&example, Some(process)).await;
    }

    // A killed process is restarted.
    let order = "/control?member=worker-1&how=kill";
    assert_eq!(example.post(order, "").await.0, 200);
    complete(&example, Some(&processes[2])).await;

    // The page lists the tasks that were submitted at either instance, with their states.
    let order = "/control?member=worker-2&how=kill";
    let (submitted, killed) = tokio::join!(
        example.post("/burst?count=300", ""),
        example.post(order, "")
    );
    assert_eq!((submitted.0, killed.0), (200, 200));
    let row = eventually("the end of all tasks", async || {
        let page = example.get("/").await;
        let row = page.split("<tr><td>1<td>square<td>").nth(1).unwrap();
        let have_ended = row.starts_with("300 succeeded, ");
        have_ended.then(|| row.lines().next().unwrap().to_owned())
    })
    .await;
    let attempts = row.split(", ").nth(1).unwrap().split(' ').next();
    assert!(attempts.unwrap().parse::<u32>().unwrap() >= 300, "{row}");

    let (status, text) = example.post("/control?member=worker-3&how=kill", "").await;
    assert_eq!((status, &*text), (404, "there is no worker-3\n"));
}

/// Sends a signal to a process.
fn send(signal: &str, process: &str) {
    let kill = Command::new("kill").args([signal, process]).status();
    assert!(kill.unwrap().success());
}

/// Returns the pauses that the supervisor has announced for a member, in seconds.
fn pauses(log: &str, member: &str) -> Vec<f32> {
    let start = format!("{member} starts again in ");
    let pauses = log.lines().filter_map(|line| line.strip_prefix(&start));
    let seconds = pauses.map(|pause| pause.strip_suffix(" s").unwrap());
    seconds.map(|seconds| seconds.parse().unwrap()).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_member_that_does_not_start_is_retried_with_growing_pauses() {
    let example = Example::start_with(env!("CARGO_BIN_EXE_cluster"), &[("BACKEND", "sqlite")]);
    let processes = complete(&example, None).await;
    let address = eventually("the address of web-2", async || {
        let output = example.output();
        let address = output
            .lines()
            .find_map(|line| line.strip_prefix("web-2 is at "));
        address.map(str::to_owned)
    })
    .await;

    // The supervisor is stopped, so that the test gets the address of the instance first.
    let supervisor = example.process.id().to_string();
    send("-STOP", &supervisor);
    send("-KILL", &processes[1]);
    let listener = eventually("the address is free", async || {
        TcpListener::bind(&address).await.ok()
    })
    .await;
    send("-CONT", &supervisor);
    // Acts like an instance that ends: it closes the connections of the proxy.
    let closing = tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
        }
    });

    until("two attempts fail", async || {
        example.log().matches("web-2 does not start: ").count() >= 2
    })
    .await;
    closing.abort();
    complete(&example, Some(&processes[1])).await;
    let pauses = pauses(&example.log(), "web-2");
    assert!(pauses.len() >= 3 && pauses.is_sorted(), "{pauses:?}");
    // Each pause is a fixed part, which doubles, plus a random part of at most the same length.
    for (pause, shortest) in pauses.iter().zip([1.0, 2.0, 4.0]) {
        assert!((shortest..=shortest * 2.0).contains(pause), "{pauses:?}");
    }
}

/// Returns the processes that have this text in their command line or in their environment.
#[cfg(target_os = "linux")]
fn processes_with(text: &str) -> Vec<PathBuf> {
    let has = |file: PathBuf| {
        let bytes = std::fs::read(file).unwrap_or_default();
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    let all = std::fs::read_dir("/proc").unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    all.filter(|process| has(process.join("cmdline")) || has(process.join("environ")))
        .collect()
}

/// Returns the children of a process.
#[cfg(target_os = "linux")]
fn children(process: u32) -> BTreeSet<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let children = threads.map(|thread| thread.unwrap().path().join("children"));
    let children = children.map(|file| std::fs::read_to_string(file).unwrap_or_default());
    let children = children.collect::<Vec<_>>().concat();
    children.split_whitespace().map(str::to_owned).collect()
}

/// Asserts that no process and no file of a cluster is left. All of them have this directory in their environment or
/// path.
#[cfg(target_os = "linux")]
async fn assert_nothing_is_left(directory: &Path) {
    let name = directory.to_str().unwrap();
    until("the end of all processes", async || {
        processes_with(name).is_empty()
    })
    .await;
    let left: Vec<_> = directory.read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_cluster_leaves_nothing_behind() {
    for (signal, backend, processes) in [
        ("INT", "nats", 8),
        ("TERM", "sqlite", 6),
        ("KILL", "nats", 8),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().to_str().unwrap();
        let environment = [("TMPDIR", name), ("BACKEND", backend)];
        let mut example = Example::start_with(env!("CARGO_BIN_EXE_cluster"), &environment);
        assert_eq!(example.post("/burst?count=100", "").await.0, 200);
        // The supervisor, two processes for a server, two instances, two workers and the proxy.
        assert_eq!(processes_with(name).len(), processes);
        send(&format!("-{signal}"), &example.process.id().to_string());
        let ended = async || example.process.try_wait().unwrap();
        let ended = eventually("the end of the supervisor", ended).await;
        assert_eq!(ended.success(), signal != "KILL", "{ended}");
        assert_nothing_is_left(directory.path()).await;
    }
}

/// The supervisor also waits for a member that has started and does not listen yet.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_cluster_that_ends_while_a_member_starts_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().to_str().unwrap();
    let environment = [("TMPDIR", name), ("BACKEND", "sqlite")];
    let mut example = Example::start_with(env!("CARGO_BIN_EXE_cluster"), &environment);
    let processes = complete(&example, None).await;
    let before = children(example.process.id());
    send("-KILL", &processes[1]);
    let started = async {
        loop {
            let now = children(example.process.id());
            if let Some(new) = now.difference(&before).next() {
                return new.clone();
            }
            // A short pause, because the process listens soon.
            sleep(Duration::from_millis(1)).await;
        }
    };
    let started = soon(started).await;
    // The process is stopped, so it ends only if the supervisor kills it.
    send("-STOP", &started);
    send("-INT", &example.process.id().to_string());
    let ended = async || example.process.try_wait().unwrap();
    let ended = eventually("the end of the supervisor", ended).await;
    assert!(ended.success(), "{ended}");
    until("the supervisor has waited for the member", async || {
        example
            .log()
            .lines()
            .any(|line| line == "web-2 is ended too")
    })
    .await;
    assert_nothing_is_left(directory.path()).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_cluster_that_cannot_start_says_why_and_leaves_nothing_behind() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // Nothing listens at this address.
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("nats://{}", bound.local_addr().unwrap());
    for (variable, value, reason) in [
        (
            "ADDR",
            &*address,
            &*format!("proxy: {address}: Address already in use"),
        ),
        (
            "NATS_URL",
            &url,
            &format!("no NATS server answers at {url}: "),
        ),
        ("BACKEND", "redis", "unknown backend `redis`"),
        (
            "BACKEND",
            "postgres:postgres:///?host=/nowhere",
            "No such file or directory",
        ),
        (
            "BACKEND",
            "sqlite:/nowhere/cluster.db",
            "/nowhere/cluster.db",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let ended = tokio::process::Command::new(env!("CARGO_BIN_EXE_cluster"))
            .env("ADDR", "127.0.0.1:0")
            .env("TMPDIR", directory.path())
            .env(variable, value)
            .kill_on_drop(true)
            .output();
        let ended = soon(ended).await.unwrap();
        assert!(!ended.status.success());
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(text.contains(reason), "{text}");
        assert!(!text.contains("Error"), "{text}");
        assert_nothing_is_left(directory.path()).await;
    }
}
