//! The example as a user meets it: started as processes, and used over HTTP.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use test_support::example::Example;

#[tokio::test]
async fn tasks() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("tasks.db");
    let alone = Example::start_with(
        env!("CARGO_BIN_EXE_tasks"),
        &[("DATABASE", database.to_str().unwrap())],
    );
    let report = format!("report 2026 for ada, by process {}\n", alone.process.id());
    assert_eq!(alone.get("/reports/2026").await, report);
    drop(alone);

    let role = |role| [("DATABASE", database.to_str().unwrap()), ("ROLE", role)];
    let web = Example::start_with(env!("CARGO_BIN_EXE_tasks"), &role("web"));
    let mut worker = Command::new(env!("CARGO_BIN_EXE_tasks"))
        .envs(role("worker"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let report = format!("report 2027 for ada, by process {}\n", worker.id());
    assert_eq!(web.get("/reports/2027").await, report);
    worker.kill().unwrap();
    worker.wait().unwrap();
}
