//! Limits by key: at most so many at once, and nothing else waits for them.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::eventually::eventually;
use test_support::mortal::Mortal;
use test_support::nats::Server;
use test_support::task::SECOND;
use test_support::{soon, until};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_promises_backend::{Backend, Priority};
use tower_promises_sqlite::SqliteDatabase;
use tower_promises_tasks::{
    Principal, Task, TaskContext, TaskFailure, TaskId, TaskLimit, TaskQueueOptions, TaskState,
    Tasks, TasksBuilder,
};

/// What the tasks of a test do at present.
#[derive(Clone)]
struct Running {
    counts: Arc<Mutex<HashMap<String, (usize, usize)>>>,
    order: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
}

impl Running {
    fn new(permits: usize) -> Self {
        Self {
            counts: Arc::default(),
            order: Arc::default(),
            gate: Arc::new(Semaphore::new(permits)),
        }
    }

    fn begin(&self, key: &str) -> Ran {
        let mut counts = self.counts.lock().unwrap();
        let (now, most) = counts.entry(key.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        Ran(self.clone(), key.to_owned())
    }

    fn now(&self, key: &str) -> usize {
        self.counts.lock().unwrap().get(key).map_or(0, |it| it.0)
    }

    fn most(&self, key: &str) -> usize {
        self.counts.lock().unwrap().get(key).map_or(0, |it| it.1)
    }

    fn order(&self) -> Vec<String> {
        self.order.lock().unwrap().clone()
    }
}

/// A run of a task, which ends on drop.
struct Ran(Running, String);

impl Drop for Ran {
    fn drop(&mut self) {
        self.0.counts.lock().unwrap().get_mut(&self.1).unwrap().0 -= 1;
    }
}

/// A task of a tenant. Two run at once, of tenant `one` only one.
#[derive(Clone, Serialize, Deserialize)]
struct Export {
    tenant: String,
    what: String,
}

impl Task for Export {
    const NAME: &'static str = "export";
    type Output = ();

    fn limit(&self, principal: Option<&Principal>) -> Option<TaskLimit> {
        if let Some(principal) = principal {
            return Some(TaskLimit::new(principal.as_str(), 1));
        }
        let at_once = if self.tenant == "one" { 1 } else { 2 };
        (self.tenant != "free").then(|| TaskLimit::new(&*self.tenant, at_once))
    }

    async fn run(self, context: TaskContext) -> Result<(), TaskFailure> {
        let running = context.state::<Running>()?.clone();
        let key = context.principal().map_or(&*self.tenant, Principal::as_str);
        let _ran = running.begin(key);
        running.order.lock().unwrap().push(self.what.clone());
        match &*self.what {
            "conflict" if context.attempt() == 1 => return Err(TaskFailure::conflict("once")),
            "later" if context.attempt() == 1 => {
                return Err(TaskFailure::retry_after("later", SECOND * 600));
            }
            "quick" => {}
            _ => drop(running.gate.acquire().await?),
        }
        // Another task could begin here.
        tokio::task::yield_now().await;
        Ok(())
    }
}

fn export(tenant: &str, what: impl Into<String>) -> Export {
    Export {
        tenant: tenant.to_owned(),
        what: what.into(),
    }
}

fn builder(backend: &Backend, running: &Running) -> TasksBuilder {
    Tasks::builder(backend.clone())
        .queue(
            TaskQueueOptions::new("main")
                .task::<Export>()
                .concurrency(8),
        )
        .state(running.clone())
        .lease(SECOND * 5)
}

fn process(backend: &Backend, running: &Running) -> Tasks {
    builder(backend, running).build()
}

async fn submit(tasks: &Tasks, tenant: &str, what: &str) -> TaskId {
    let submit = tasks.queue("main").submit(export(tenant, what));
    submit.await.unwrap()
}

async fn ended(tasks: &Tasks, ids: &[TaskId]) {
    for id in ids {
        soon(tasks.output::<Export>(id)).await.unwrap();
    }
}

/// Two workers run at most two tasks of a tenant, while those of other tenants pass.
async fn two_of_a_tenant_run_at_once(backend: Backend, other: Backend) {
    let running = Running::new(0);
    let processes = [process(&backend, &running), process(&other, &running)];
    let mut ids = Vec::new();
    for number in 0..12 {
        ids.push(submit(&processes[number % 2], "a", "slow").await);
    }
    let _workers = processes.each_ref().map(|tasks| tasks.work().unwrap());
    eventually("two tasks run", async || {
        (running.now("a") == 2).then_some(())
    })
    .await;

    let mut others = Vec::new();
    for tasks in &processes {
        others.push(submit(tasks, "b", "quick").await);
        others.push(submit(tasks, "free", "quick").await);
    }
    ended(&processes[0], &others).await;
    assert_eq!(running.most("a"), 2);
    let status = processes[1].status(&ids[11]).await.unwrap();
    assert_eq!((status.state(), status.attempt()), (TaskState::Queued, 0));

    running.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    ended(&processes[1], &ids).await;
    assert_eq!((running.most("a"), running.now("a")), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn in_memory() {
    let backend = Backend::memory();
    two_of_a_tenant_run_at_once(backend.clone(), backend).await;
}

#[tokio::test]
async fn in_a_file_of_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared.db");
    let open = async || SqliteDatabase::open(&path).await.unwrap().backend();
    two_of_a_tenant_run_at_once(open().await, open().await).await;
}

#[tokio::test]
async fn on_a_nats_server() {
    let server = Server::start().await;
    let connect = async || server.backend().await.backend();
    two_of_a_tenant_run_at_once(connect().await, connect().await).await;
}

#[tokio::test]
async fn on_postgresql() {
    let [one, other] = crate::backends::on_postgresql().await.backends;
    two_of_a_tenant_run_at_once(one, other).await;
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_key_run_in_order_and_those_of_higher_priority_first() {
    let running = Running::new(0);
    let tasks = process(&Backend::memory(), &running);
    let mut ids = Vec::new();
    for (what, priority) in [
        ("first", Priority::Normal),
        ("low", Priority::Low),
        ("second", Priority::Normal),
        ("third", Priority::Normal),
        ("high", Priority::High),
    ] {
        let submit = tasks.queue("main").submit(export("one", what));
        ids.push(submit.priority(priority).await.unwrap());
    }
    running.gate.add_permits(9);
    let _worker = tasks.work().unwrap();
    ended(&tasks, &ids).await;
    assert_eq!(running.order(), ["first", "high", "second", "third", "low"]);
}

#[tokio::test(start_paused = true)]
async fn a_limit_can_be_that_of_the_principal() {
    let running = Running::new(0);
    let tasks = process(&Backend::memory(), &running);
    let mut ids = Vec::new();
    for principal in ["ada", "ada", "bob", "bob"] {
        let submit = submit(&tasks, "free", "slow");
        ids.push(Principal::new(principal).scope(submit).await);
    }
    let _worker = tasks.work().unwrap();
    until("the tasks run", || {
        running.now("ada") == 1 && running.now("bob") == 1
    })
    .await;
    running.gate.add_permits(9);
    ended(&tasks, &ids).await;
    assert_eq!((running.most("ada"), running.most("bob")), (1, 1));
}

/// A task that waits for its next attempt has no slot meanwhile, and waits for one again.
#[tokio::test(start_paused = true)]
async fn a_pause_between_attempts_blocks_no_other_task() {
    let running = Running::new(0);
    let tasks = process(&Backend::memory(), &running);
    let later = submit(&tasks, "one", "later").await;
    let quick = submit(&tasks, "one", "quick").await;
    let _worker = tasks.work().unwrap();
    let start = Instant::now();
    ended(&tasks, &[quick]).await;
    assert!(start.elapsed() < SECOND * 10);

    let slow = submit(&tasks, "one", "slow").await;
    tokio::time::sleep(SECOND * 700).await;
    assert_eq!(running.order(), ["later", "quick", "slow"]);
    running.gate.add_permits(9);
    ended(&tasks, &[slow, later]).await;
    assert_eq!(running.order(), ["later", "quick", "slow", "later"]);
    assert_eq!(running.most("one"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_needs_a_slot_only_when_it_is_due() {
    let running = Running::new(9);
    let tasks = process(&Backend::memory(), &running);
    let delayed = tasks.queue("main").submit(export("one", "delayed"));
    let delayed = delayed.delay(SECOND * 100).await.unwrap();
    let quick = submit(&tasks, "one", "quick").await;
    let _worker = tasks.work().unwrap();
    ended(&tasks, &[quick, delayed]).await;
    assert_eq!(running.order(), ["quick", "delayed"]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_keeps_no_other_from_its_slot() {
    let running = Running::new(0);
    let tasks = process(&Backend::memory(), &running);
    let mut ids = Vec::new();
    // More than are skipped in one step.
    for _ in 0..250 {
        ids.push(submit(&tasks, "one", "slow").await);
    }
    let last = submit(&tasks, "one", "quick").await;
    let _worker = tasks.work().unwrap();
    until("the tasks run", || running.now("one") == 1).await;
    for id in ids.iter().rev() {
        assert!(tasks.cancel(id).await.unwrap());
    }
    ended(&tasks, &[last]).await;
    assert_eq!(running.order(), ["slow", "quick"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_sent_again_waits_for_a_slot() {
    let running = Running::new(0);
    let tasks = builder(&Backend::memory(), &running)
        .max_attempts(1)
        .build();
    let dead = submit(&tasks, "one", "conflict").await;
    let slow = submit(&tasks, "one", "slow").await;
    let worker = tasks.work().unwrap();
    soon(tasks.output::<Export>(&dead)).await.unwrap_err();
    until("the tasks run", || running.now("one") == 1).await;
    tasks.queue("main").send_again(&dead).await.unwrap();
    tokio::time::sleep(SECOND * 100).await;
    assert_eq!(running.order(), ["conflict", "slow"]);
    running.gate.add_permits(9);
    ended(&tasks, &[slow]).await;
    soon(tasks.output::<Export>(&dead)).await.unwrap_err();
    assert_eq!(running.order(), ["conflict", "slow", "conflict"]);
    worker.drain(SECOND).await;
}

/// The slot of a killed worker passes to the next attempt of its task.
#[tokio::test(start_paused = true)]
async fn a_task_of_a_lost_worker_keeps_its_slot() {
    let running = Running::new(0);
    let tasks = process(&Backend::memory(), &running);
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(submit(&tasks, "one", "slow").await);
    }
    let victim = tasks.work().unwrap();
    until("the tasks run", || running.now("one") == 1).await;
    drop(victim);
    until("the tasks run", || running.now("one") == 0).await;
    let _worker = tasks.work().unwrap();
    running.gate.add_permits(9);
    ended(&tasks, &ids).await;
    assert_eq!((running.most("one"), running.order().len()), (1, 5));
    assert_eq!(tasks.status(&ids[0]).await.unwrap().attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_drained_worker_returns_its_tasks_with_their_slots() {
    let running = Running::new(0);
    let tasks = process(&Backend::memory(), &running);
    let ids = [
        submit(&tasks, "one", "slow").await,
        submit(&tasks, "one", "quick").await,
    ];
    let worker = tasks.work().unwrap();
    until("the tasks run", || running.now("one") == 1).await;
    worker.drain(Duration::ZERO).await;
    let _worker = tasks.work().unwrap();
    running.gate.add_permits(9);
    ended(&tasks, &ids).await;
    assert_eq!(running.order(), ["slow", "slow", "quick"]);
    assert_eq!(running.most("one"), 1);
}

/// A process ends before or after each of its calls to the backend. No acknowledged task is lost or stuck, and none
/// runs beside another one.
#[tokio::test(start_paused = true)]
async fn a_process_may_end_at_any_call() {
    for has_effect in [false, true] {
        let mut calls = 1;
        while dies_after(calls, has_effect).await {
            calls += 1;
        }
        assert!(calls > 100, "{calls} calls are too few for the scenario");
    }
}

/// Runs a process that ends in call number `calls`, and another one after it. Returns whether the first has ended
/// before its scenario.
async fn dies_after(calls: usize, has_effect: bool) -> bool {
    let running = Running::new(99);
    let life = Mortal::new(calls, has_effect);
    let (mortal, immortal) = (life.backend(), life.survivor());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let scenario = {
        let (running, acknowledged) = (running.clone(), acknowledged.clone());
        async move {
            let tasks = process(&mortal, &running);
            let queue = tasks.queue("main");
            let _worker = tasks.work().unwrap();
            for what in ["conflict", "quick", "slow", "quick"] {
                if let Ok(id) = queue.submit(export("one", what)).await {
                    acknowledged.lock().unwrap().push(id);
                }
            }
            let ids = acknowledged.lock().unwrap().clone();
            ended(&tasks, &ids).await;
        }
    };
    let survivor = process(&immortal, &running);
    // Another process submits meanwhile.
    let other = submit(&survivor, "one", "other").await;
    let has_died = tokio::select! {
        () = scenario => false,
        () = life.died.notified() => true,
    };
    // The future of the scenario has been dropped with all that it did.
    let _worker = survivor.work().unwrap();
    let mut ids = acknowledged.lock().unwrap().clone();
    ids.push(other);
    for id in ids {
        let ended = tokio::time::timeout(SECOND * 3600, survivor.output::<Export>(&id)).await;
        let at = format!("call {calls}, effect {has_effect}, task {id}");
        ended.unwrap_or_else(|_| panic!("stuck: {at}")).expect(&at);
    }
    assert_eq!(running.most("one"), 1, "call {calls}, effect {has_effect}");
    has_died
}
