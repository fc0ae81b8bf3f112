//! Several processes and a server, of NATS or of PostgreSQL, that are killed, restarted and blocked while they work.
#![allow(clippy::unwrap_used)]

mod process;

use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::FuturesUnordered;
use process::{Job, Journal, LEASE, Output, Process, backend, tasks};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Instant, UNIX_EPOCH};
use tempfile::TempDir;
use test_support::nats::{BOUND, SECOND, eventually, soon};
use test_support::{nats, postgres};
use tokio::sync::{Mutex, MutexGuard, Notify};
use tower_promises_tasks::{TaskError, TaskId, TaskState, Tasks};

enum Server {
    Nats(nats::Server),
    Postgres(postgres::Server),
}

impl Server {
    async fn of_nats() -> Self {
        Self::Nats(nats::Server::start().await)
    }

    async fn of_postgresql() -> Self {
        Self::Postgres(postgres::Server::start().await)
    }

    fn address(&self) -> String {
        match self {
            Self::Nats(server) => server.address(),
            Self::Postgres(server) => server.url(),
        }
    }

    /// Ends the server without a chance to finish anything, and starts it with the stored data.
    async fn crash_and_start_again(&mut self) {
        match self {
            Self::Nats(server) => {
                server.kill();
                server.start_again().await;
            }
            Self::Postgres(server) => {
                server.crash();
                server.start_again().await;
            }
        }
    }
}

/// A server, and a record of what its processes do.
struct Cluster {
    server: Server,
    journal: Journal,
    /// The handle of the test's own process.
    tasks: Tasks,
    _directory: TempDir,
    /// Tests run in turn, because a busy machine would not renew leases in time.
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    async fn start(server: impl AsyncFn() -> Server) -> Self {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let server = server().await;
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::at(directory.path().join("journal"));
        Self {
            tasks: tasks(backend(&server.address()).await, &journal),
            server,
            journal,
            _directory: directory,
            _turn: turn,
        }
    }

    fn process(&self, role: &str) -> Process {
        Process::start(role, &self.server.address(), &self.journal)
    }

    async fn output(&self, id: &TaskId) -> Result<Output, TaskError> {
        soon(self.tasks.output::<Job>(id)).await
    }

    /// Returns the number of attempts that have begun, for each task.
    fn begun(&self) -> BTreeMap<String, u32> {
        let mut begun = BTreeMap::new();
        for line in self.journal.read("begin") {
            *begun.entry(line.task).or_default() += 1;
        }
        begun
    }
}

#[test]
#[ignore = "the other processes of these tests"]
fn the_other_process() {
    process::run();
}

/// Defines a test on each server.
macro_rules! on_each_server {
    ($($name:ident),* $(,)?) => {
        mod nats_server {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Server::of_nats).await;
            })*
        }

        mod postgresql {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Server::of_postgresql).await;
            })*
        }
    };
}

on_each_server! {
    every_task_has_one_result_when_a_worker_is_killed,
    each_due_time_has_one_run_while_processes_are_killed_and_started,
    a_limit_holds_when_a_worker_is_killed,
    the_operation_of_a_killed_instance_is_lost,
    a_cancel_at_another_instance_stops_the_work,
    nothing_acknowledged_is_lost_when_the_server_restarts,
    a_task_that_kills_its_workers_is_given_up,
    a_renewed_lease_excludes_other_workers,
    a_worker_that_was_blocked_changes_no_result,
}

async fn every_task_has_one_result_when_a_worker_is_killed(server: impl AsyncFn() -> Server) {
    const TASKS: u64 = 1000;
    let cluster = Cluster::start(server).await;
    let survivor = cluster.process("worker");
    let victim = cluster.process("victim");
    let queue = cluster.tasks.queue("many");
    let submits = (0..TASKS).map(|number| queue.submit(Job::Square(number)));
    let submit = async { try_join_all(submits).await.unwrap() };
    let kill = async {
        // The victim has certainly begun these tasks, and not ended them.
        let stuck = eventually("the victim has tasks", async || {
            let stuck = cluster.journal.read("stuck");
            (stuck.len() >= 3).then_some(stuck)
        });
        let stuck = stuck.await;
        let id = victim.id();
        victim.kill();
        assert!(stuck.iter().all(|line| line.process == id));
        stuck
    };
    let (ids, stuck) = tokio::join!(submit, kill);
    let outputs = join_all(ids.iter().map(|id| cluster.output(id))).await;
    let begun = cluster.begun();
    for (number, (id, output)) in (0..).zip(ids.iter().zip(outputs)) {
        let status = cluster.tasks.status(id).await.unwrap();
        let (square, attempt) = output.unwrap();
        assert_eq!(square, number * number);
        assert_eq!(status.state(), TaskState::Succeeded);
        // The recorded result belongs to the attempt that counts.
        assert_eq!(status.attempt(), attempt);
        // An attempt also counts if its worker was killed before it wrote the first line.
        assert!((1..=attempt).contains(&begun[id.as_str()]), "{status:?}");
        assert!(attempt <= 2, "{status:?}");
    }
    for line in stuck {
        let status = cluster.tasks.status(&TaskId::new(line.task)).await.unwrap();
        assert_eq!(status.attempt(), 2, "the killed attempt counts");
    }
    drop(survivor);
}

async fn each_due_time_has_one_run_while_processes_are_killed_and_started(
    server: impl AsyncFn() -> Server,
) {
    let cluster = Cluster::start(server).await;
    let mut processes: Vec<_> = (0..3).map(|_| cluster.process("scheduler")).collect();
    // The due times of runs that have ended, in seconds since the epoch.
    let ended = || {
        let ids = cluster
            .journal
            .read("end")
            .into_iter()
            .map(|line| line.task);
        let due = ids.map(|id| {
            let due = id.strip_prefix("schedule/second/").unwrap();
            let due = humantime::parse_rfc3339(due).unwrap();
            due.duration_since(UNIX_EPOCH).unwrap().as_secs()
        });
        due.collect::<BTreeSet<_>>()
    };
    let passed = async |number: usize| {
        let passed = eventually("due times pass", async || {
            let ended = ended();
            (ended.len() >= number).then_some(ended)
        });
        passed.await
    };
    passed(1).await;
    for round in 0..8 {
        let killed = processes.remove(0);
        killed.kill();
        // Also without any process for a moment.
        if round == 4 {
            processes.drain(..).for_each(Process::kill);
        }
        while processes.len() < 3 {
            processes.push(cluster.process("scheduler"));
        }
        let number = ended().len();
        passed(number + 2).await;
    }
    let last = *ended().last().unwrap();
    let first = *ended().first().unwrap();
    // The run of a killed process begins again when its lease ends.
    eventually("each due time has a run", async || {
        let ended = ended();
        (first..=last).all(|due| ended.contains(&due)).then_some(())
    })
    .await;
    // A second run of a due time would begin with a first attempt of its own.
    let begun = cluster.journal.read("begin");
    let first_attempts = begun.iter().filter(|line| line.attempt == 1);
    let mut ids: Vec<_> = first_attempts.map(|line| &line.task).collect();
    let number = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), number);
}

/// A killed worker keeps the slots of its tasks until another worker has them. Tasks without a limit do not wait.
async fn a_limit_holds_when_a_worker_is_killed(server: impl AsyncFn() -> Server) {
    let cluster = Cluster::start(server).await;
    let victim = cluster.process("victim");
    let queue = cluster.tasks.queue("many");
    let submits = (0..40).map(|number| queue.submit(Job::Tenant(number % 2)));
    let ids = try_join_all(submits).await.unwrap();
    let stuck = eventually("the victim has a task of each tenant", async || {
        let stuck = cluster.journal.read("stuck");
        (stuck.len() == 2).then_some(stuck)
    });
    let stuck = stuck.await;
    let survivors = [cluster.process("worker"), cluster.process("worker")];
    let others = (0..20).map(|number| queue.call(Job::Square(number)));
    soon(try_join_all(others)).await.unwrap();
    assert!(stuck.iter().all(|line| line.process == victim.id()));
    assert_eq!(
        cluster.begun().len(),
        22,
        "one task of each tenant has begun"
    );

    victim.kill();
    for id in &ids {
        cluster.output(id).await.unwrap();
    }
    let mut running = [None, None];
    for line in cluster.journal.read_all() {
        let Some(number) = ids.iter().position(|id| id.as_str() == line.task) else {
            continue;
        };
        let running = &mut running[number % 2];
        match &*line.what {
            "begin" => {
                let before = running.replace(line.task.clone());
                // Only the attempt of the killed worker has no end.
                assert!(before.is_none_or(|before| before == line.task));
            }
            "end" => assert_eq!(running.take(), Some(line.task)),
            _ => {}
        }
    }
    assert_eq!(cluster.begun().len(), 60);
    drop(survivors);
}

/// Returns a client with a timeout.
fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().timeout(BOUND).build();
    client.unwrap()
}

/// Starts an operation. Returns its path.
async fn operation(client: &reqwest::Client, url: &str) -> String {
    let answer = client.post(url).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let path = &answer.headers()["operation-location"];
    path.to_str().unwrap().to_owned()
}

async fn document(client: &reqwest::Client, url: &str) -> Value {
    let answer = client.get(url).send().await.unwrap();
    answer.error_for_status().unwrap().json().await.unwrap()
}

async fn the_operation_of_a_killed_instance_is_lost(server: impl AsyncFn() -> Server) {
    let cluster = Cluster::start(server).await;
    let here = cluster.process("web");
    let there = cluster.process("web");
    let client = client();
    let path = operation(&client, &format!("{}/endless", here.url)).await;
    let url = format!("{}{path}", there.url);
    // Longer than a lease, so only its renewal keeps the operation running.
    let start = Instant::now();
    eventually("two leases have passed", async || {
        assert_eq!(document(&client, &url).await["status"], "Running");
        (start.elapsed() > LEASE * 2).then_some(())
    })
    .await;
    here.kill();
    let lost = eventually("the operation is lost", async || {
        let document = document(&client, &url).await;
        (document["status"] != "Running").then_some(document)
    });
    let lost = lost.await;
    assert_eq!(lost["status"], "Failed");
    assert_eq!(lost["error"]["code"], "Lost");
}

async fn a_cancel_at_another_instance_stops_the_work(server: impl AsyncFn() -> Server) {
    let cluster = Cluster::start(server).await;
    let _worker = cluster.process("worker");
    let here = cluster.process("web");
    let there = cluster.process("web");
    let client = client();
    for (route, what) in [("endless", "operation"), ("task", "task")] {
        let path = operation(&client, &format!("{}/{route}", here.url)).await;
        let url = format!("{}{path}", there.url);
        if what == "task" {
            eventually("the progress of the task is seen", async || {
                (document(&client, &url).await["progress"] == 50.0).then_some(())
            })
            .await;
        } else {
            eventually("the work has begun", async || {
                cluster.journal.read("begin").pop()
            })
            .await;
        }
        let cancelled = client.delete(&url).send().await.unwrap();
        let cancelled: Value = cancelled.json().await.unwrap();
        assert_eq!(cancelled["status"], "Canceled");
        eventually("the work is dropped", async || {
            let dropped = cluster.journal.read("dropped");
            dropped.into_iter().find(|line| line.task == what)
        })
        .await;
    }
}

async fn nothing_acknowledged_is_lost_when_the_server_restarts(server: impl AsyncFn() -> Server) {
    const WAVES: u64 = 40;
    let mut cluster = Cluster::start(server).await;
    let workers = [cluster.process("worker"), cluster.process("worker")];
    let web = cluster.process("web");
    let queue = cluster.tasks.queue("many");
    let submit = async |wave: u64| {
        let submits = (0..20).map(|number| queue.submit(Job::Square(wave * 20 + number)));
        // Submissions that failed were not acknowledged.
        let submitted = join_all(submits).await;
        submitted
            .into_iter()
            .filter_map(Result::ok)
            .collect::<Vec<_>>()
    };
    let mut acknowledged = Vec::new();
    for wave in 0..WAVES / 2 {
        acknowledged.extend(submit(wave).await);
    }
    // The server is killed while tasks are submitted and run: some are acknowledged by then, others are in progress.
    let some = Notify::new();
    let load = async {
        let submits = (0..100).map(|number| queue.submit(Job::Square(number)));
        let mut submits: FuturesUnordered<_> = submits.map(IntoFuture::into_future).collect();
        let mut submitted = Vec::new();
        while let Some(result) = submits.next().await {
            submitted.extend(result.ok());
            if submitted.len() == 10 {
                some.notify_one();
            }
        }
        submitted
    };
    let restart = async {
        some.notified().await;
        cluster.server.crash_and_start_again().await;
    };
    let (submitted, ()) = tokio::join!(load, restart);
    acknowledged.extend(submitted);
    for wave in WAVES / 2..WAVES {
        acknowledged.extend(submit(wave).await);
    }
    assert!(acknowledged.len() >= 400, "{}", acknowledged.len());
    for output in join_all(acknowledged.iter().map(|id| cluster.output(id))).await {
        output.unwrap();
    }
    // Both workers continue.
    let before: Vec<_> = cluster.journal.read("end");
    let workers: HashSet<u32> = workers.iter().map(Process::id).collect();
    eventually("both workers work again", async || {
        submit(WAVES + 1).await;
        let ended = cluster.journal.read("end");
        let ended = ended[before.len()..].iter().map(|line| line.process);
        (ended.collect::<HashSet<_>>() == workers).then_some(())
    })
    .await;
    // The instance receives signals again.
    let signals = tower_promises_signals::Signals::new(backend(&cluster.server.address()).await);
    let client = client();
    let heard = client.get(format!("{}/wait?name=bell", web.url)).send();
    let mut heard = Box::pin(heard);
    let ring = async {
        loop {
            signals.send("bell", "rung").await.unwrap();
            tokio::time::sleep(SECOND / 20).await;
        }
    };
    let heard = tokio::select! {
        heard = &mut heard => heard.unwrap(),
        () = ring => unreachable!(),
    };
    assert_eq!(heard.text().await.unwrap(), "rung");
}

async fn a_task_that_kills_its_workers_is_given_up(server: impl AsyncFn() -> Server) {
    let cluster = Cluster::start(server).await;
    let queue = cluster.tasks.queue("many");
    let poison = queue.submit(Job::Abort).await.unwrap();
    for attempt in 1..=3 {
        let mut worker = cluster.process("worker");
        let ended = eventually("the worker is killed", async || worker.ended()).await;
        assert!(!ended.success());
        assert_eq!(cluster.begun()[poison.as_str()], attempt);
    }
    let mut worker = cluster.process("worker");
    let error = cluster.output(&poison).await.unwrap_err();
    assert!(
        matches!(error, TaskError::Dead { attempts: 3, .. }),
        "{error:?}"
    );
    let dead = eventually("the dead letter is listed", async || {
        let dead = queue.dead_letters().await.unwrap();
        (!dead.is_empty()).then_some(dead)
    });
    let dead = dead.await;
    assert_eq!(
        (dead.len(), dead[0].id(), dead[0].attempt()),
        (1, &poison, 3)
    );
    // The worker that gave the task up still runs, and works.
    let next = queue.submit(Job::Square(7)).await.unwrap();
    assert_eq!(cluster.output(&next).await.unwrap(), (49, 1));
    assert!(worker.ended().is_none());
    assert_eq!(cluster.begun()[poison.as_str()], 3);
}

async fn a_renewed_lease_excludes_other_workers(server: impl AsyncFn() -> Server) {
    let cluster = Cluster::start(server).await;
    let _workers = [cluster.process("worker"), cluster.process("worker")];
    let queue = cluster.tasks.queue("many");
    // Three times the duration of a lease.
    let ticks = u32::try_from(LEASE.as_millis() / 100).unwrap() * 3;
    let submits = (0..8).map(|_| queue.submit(Job::Tick(ticks)));
    let ids = try_join_all(submits).await.unwrap();
    for output in join_all(ids.iter().map(|id| cluster.output(id))).await {
        assert_eq!(output.unwrap(), (0, 1));
    }
    let begun = cluster.begun();
    assert_eq!(begun.len(), ids.len());
    assert!(begun.values().all(|&attempts| attempts == 1), "{begun:?}");
    for id in &ids {
        let lines = cluster.journal.read("tick");
        let processes = lines.iter().filter(|line| line.task == id.as_str());
        let processes: HashSet<u32> = processes.map(|line| line.process).collect();
        assert_eq!(processes.len(), 1, "one worker runs the task all the time");
    }
}

async fn a_worker_that_was_blocked_changes_no_result(server: impl AsyncFn() -> Server) {
    let cluster = Cluster::start(server).await;
    let blocked = cluster.process("worker");
    let queue = cluster.tasks.queue("single");
    let milliseconds = u64::try_from(LEASE.as_millis()).unwrap() * 4;
    let id = queue.submit(Job::Block(milliseconds)).await.unwrap();
    eventually("the work has begun", async || {
        cluster.journal.read("begin").pop()
    })
    .await;
    let other = cluster.process("worker");
    let output = cluster.output(&id).await.unwrap();
    assert_eq!(output, (u64::from(other.id()), 2));
    assert!(
        cluster
            .journal
            .read("end")
            .iter()
            .all(|line| line.process == other.id())
    );
    other.kill();
    // The first attempt ends and tries to store its result. The worker runs one task at a time, so the next task starts
    // after that.
    let next = queue.submit(Job::Square(7)).await.unwrap();
    assert_eq!(cluster.output(&next).await.unwrap(), (49, 1));
    let ended = cluster.journal.read("end");
    assert!(
        ended
            .iter()
            .any(|line| line.task == id.as_str() && line.process == blocked.id())
    );
    assert_eq!(cluster.output(&id).await.unwrap(), output);
    let status = cluster.tasks.status(&id).await.unwrap();
    assert_eq!(
        (status.state(), status.attempt()),
        (TaskState::Succeeded, 2)
    );
}
