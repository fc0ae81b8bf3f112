//! Misbehaving jobs: children that crash, linger or lose their server leave nothing behind.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use test_support::eventually::{PAUSE, eventually, until};
use tower_promises_process::{ProcessError, ProcessJob, ProcessPool};

procspawn::enable_test_support!();

/// The behaviour of a child.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Act {
    Answer,
    /// Panics with a payload that is not a string.
    PanicWithNumber,
    /// Panics during a panic.
    PanicTwice,
    Overflow,
    /// Returns an answer, but does not end.
    Linger(PathBuf),
    /// Starts another program, then aborts.
    StartAndAbort(PathBuf),
    /// Writes its process id into the file, and computes forever.
    Forever(PathBuf),
    /// Runs another job in a pool of its own.
    Nested(Box<Act>),
    /// Runs many jobs in a pool of its own, and reports leaked resources.
    ManyJobs(u32),
}

/// Keeps the process from ending.
struct Lingering;

impl Drop for Lingering {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("the second one");
    }
}

thread_local! {
    static LINGERING: Cell<Option<Lingering>> = const { Cell::new(None) };
}

fn overflow(depth: u64) -> u64 {
    let numbers = std::hint::black_box([depth; 1024]);
    if depth == u64::MAX {
        return 0;
    }
    overflow(depth + 1) + numbers[0]
}

/// Writes the file at once, so that a reader sees no partial content.
fn write_id(file: &Path, id: u32) {
    let unfinished = file.with_extension("unfinished");
    std::fs::write(&unfinished, id.to_string()).unwrap();
    std::fs::rename(unfinished, file).unwrap();
}

impl ProcessJob for Act {
    type Output = String;

    fn run(self) -> String {
        match self {
            Self::Answer => "answer".into(),
            Self::PanicWithNumber => std::panic::panic_any(42),
            Self::PanicTwice => {
                let _second = PanicsOnDrop;
                panic!("the first one");
            }
            Self::Overflow => overflow(0).to_string(),
            Self::Linger(file) => {
                write_id(&file, std::process::id());
                LINGERING.set(Some(Lingering));
                "answer".into()
            }
            Self::StartAndAbort(file) => {
                let child = std::process::Command::new("sleep").arg("60").spawn();
                write_id(&file, child.unwrap().id());
                std::process::abort();
            }
            Self::Forever(file) => {
                write_id(&file, std::process::id());
                loop {
                    std::thread::park();
                }
            }
            Self::Nested(act) => {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let pool = ProcessPool::builder().max_processes(1).build();
                runtime.block_on(pool.run(*act)).unwrap()
            }
            Self::ManyJobs(times) => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(many_jobs(times))
            }
        }
    }
}

fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // A process that has ended stays a zombie until its parent reads its exit status.
    !stat.is_empty() && !stat.contains(") Z ")
}

fn pool() -> ProcessPool {
    ProcessPool::builder().max_processes(1).build()
}

/// Counts the threads, the open files, and the children including zombies.
fn resources() -> [usize; 3] {
    let count = |directory| std::fs::read_dir(directory).unwrap().count();
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let children = threads.map(|thread| {
        // The children of a thread that ends meanwhile move to another thread.
        let children = std::fs::read_to_string(thread.unwrap().path().join("children"));
        children.unwrap_or_default().split_whitespace().count()
    });
    [
        count("/proc/self/task"),
        count("/proc/self/fd"),
        children.sum(),
    ]
}

async fn many_jobs(times: u32) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let before = resources();
    let pool = ProcessPool::builder().max_processes(3).build();
    for _ in 0..times {
        let (answer, crash) = tokio::join!(pool.run(Act::Answer), pool.run(Act::PanicTwice));
        assert!(answer.is_ok() && crash.is_err());
        let mut dropped = pool.run(Act::Forever(file.clone()));
        let _ = futures_util::poll!(&mut dropped);
    }
    // `until` has a thread of its own, which would count. The job itself is bounded.
    loop {
        let left = resources();
        if left == before {
            return "nothing is left".into();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn read_id(file: &Path) -> Option<u32> {
    // The file is empty before the id is written.
    std::fs::read_to_string(file).ok()?.parse().ok()
}

#[tokio::test]
async fn crashes_of_all_kinds_are_errors() {
    let pool = pool();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    for job in [
        Act::PanicTwice,
        Act::Overflow,
        Act::StartAndAbort(file.clone()),
    ] {
        let error = pool.run(job.clone()).await.unwrap_err();
        assert!(matches!(error, ProcessError::Died { .. }), "{error:?}");
    }
    let error = pool.run(Act::PanicWithNumber).await.unwrap_err();
    assert!(matches!(error, ProcessError::Panicked { .. }), "{error:?}");
    assert_eq!(pool.run(Act::Answer).await.unwrap(), "answer");
    // A program that a job has started is not killed with the job.
    let started = read_id(&file).unwrap();
    assert!(is_alive(started));
    let killed = std::process::Command::new("kill")
        .arg(started.to_string())
        .status();
    assert!(killed.unwrap().success());
}

#[tokio::test]
async fn a_process_that_does_not_end_after_its_answer_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let pool = pool();
    let answer = pool.run(Act::Linger(file.clone())).await;
    assert_eq!(answer.unwrap(), "answer");
    let id = read_id(&file).unwrap();
    until("the process ends", async || !is_alive(id)).await;
    assert_eq!(pool.run(Act::Answer).await.unwrap(), "answer");
}

#[tokio::test]
async fn a_job_does_not_outlive_its_server() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let pool = pool();
    // The server is a child process of this test, and is killed like a victim of the out-of-memory killer.
    let mut server = pool.run(Act::Nested(Box::new(Act::Forever(file.clone()))));
    let begun = eventually("the job begins", async || read_id(&file));
    let id = tokio::select! {
        id = begun => id,
        ended = &mut server => panic!("the server has ended: {ended:?}"),
    };
    assert!(is_alive(id));
    drop(server);
    until("the job ends", async || !is_alive(id)).await;
}

#[tokio::test]
async fn a_job_can_have_a_pool_of_its_own() {
    let job = Act::Nested(Box::new(Act::Nested(Box::new(Act::Answer))));
    assert_eq!(pool().run(job).await.unwrap(), "answer");
}

#[test]
fn the_end_of_the_runtime_ends_its_jobs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = pool();
    let job = runtime.spawn(pool.run(Act::Forever(file.clone())));
    let id = runtime.block_on(eventually("the job begins", async || read_id(&file)));
    drop(runtime);
    drop(job);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(until("the process ends", async || !is_alive(id)));
    assert_eq!(runtime.block_on(pool.run(Act::Answer)).unwrap(), "answer");
}

#[tokio::test]
async fn many_jobs_leave_nothing_behind() {
    // In a process of their own, because other tests have children and open files, too.
    let left = pool().run(Act::ManyJobs(20)).await.unwrap();
    assert_eq!(left, "nothing is left");
}
