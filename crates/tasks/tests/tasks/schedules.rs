//! Schedules: due times, several processes, missed times, deployments, clocks that are set, daylight saving time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use test_support::task::{Act, Broken, SECOND, act, builder};
use test_support::{Log, soon};
use tokio::time::{Instant, sleep};
use tower_promises_backend::Backend;
use tower_promises_tasks::{
    Missed, Principal, Schedule, TaskError, TaskFailure, TaskState, Tasks, Worker,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn at(text: &str) -> SystemTime {
    humantime::parse_rfc3339(text).unwrap()
}

fn text(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The machines of a test: a clock that can be set, and the due times of the runs, in their order.
#[derive(Clone)]
struct Site {
    backend: Backend,
    start: Instant,
    now: Arc<Mutex<SystemTime>>,
    runs: Arc<Mutex<Vec<String>>>,
    /// How long a run takes.
    work: Duration,
}

impl Site {
    fn new(now: &str) -> Self {
        Self {
            backend: Backend::memory(),
            start: Instant::now(),
            now: Arc::new(Mutex::new(at(now))),
            runs: Arc::default(),
            work: Duration::ZERO,
        }
    }

    fn now(&self) -> SystemTime {
        *self.now.lock().unwrap() + self.start.elapsed()
    }

    /// Sets the clock of all machines.
    fn set(&self, time: &str) {
        *self.now.lock().unwrap() = at(time) - self.start.elapsed();
    }

    async fn sleep_until(&self, time: &str) {
        let left = at(time).duration_since(self.now()).unwrap();
        sleep(left).await;
    }

    fn process(&self, schedules: impl IntoIterator<Item = Schedule>) -> (Tasks, Worker) {
        let (runs, work, clock) = (self.runs.clone(), self.work, self.clone());
        let script = move |due: String, _| {
            let runs = runs.clone();
            async move {
                sleep(work).await;
                runs.lock().unwrap().push(due.clone());
                Ok(due)
            }
        };
        let mut builder = builder(&self.backend, script).clock(move || clock.now());
        for schedule in schedules {
            builder = builder.schedule(schedule);
        }
        let tasks = builder.build();
        let worker = tasks.work().unwrap();
        (tasks, worker)
    }

    fn runs(&self) -> Vec<String> {
        self.runs.lock().unwrap().clone()
    }

    /// Returns the runs since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.runs.lock().unwrap())
    }
}

/// A schedule whose tasks have their due times as arguments.
fn schedule(expression: &str) -> Schedule {
    Schedule::new("tick", "main", expression, |due| act(text(due))).unwrap()
}

/// The due times of a schedule between two times.
fn due(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
    let next = |time: &SystemTime| schedule.next_after(*time);
    let times = std::iter::successors(next(&at(from)), next);
    times.take_while(|due| *due <= at(to)).map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn each_due_time_runs_once_over_three_processes_that_end_and_start() {
    let site = Site::new("2026-01-10T09:59:30Z");
    let every_minute = || [schedule("* * * * *")];
    let mut processes: Vec<_> = (0..3).map(|_| Some(site.process(every_minute()))).collect();
    // A process ends at every sixth of a minute or thereabouts, so also at due times.
    for step in 0..1000_usize {
        sleep(Duration::from_millis(9_970)).await;
        let process = &mut processes[step % 3];
        *process = match process.take() {
            Some(process) => {
                drop(process);
                None
            }
            None => Some(site.process(every_minute())),
        };
    }
    let end = text(site.now());
    for process in &mut processes {
        process.get_or_insert_with(|| site.process(every_minute()));
    }
    // The leases of processes that have ended are over then.
    sleep(SECOND * 40).await;
    let mut runs = site.runs();
    runs.sort();
    runs.retain(|run| *run <= end);
    let due = due(&schedule("* * * * *"), "2026-01-10T09:59:30Z", &end);
    assert_eq!(runs, due);
    assert!(runs.len() > 160);
}

#[tokio::test(start_paused = true)]
async fn a_run_has_an_id_and_a_principal_and_its_schedule_a_status() {
    let site = Site::new("2026-01-10T02:00:00Z");
    let nightly = schedule("0 3 * * *").principal(Principal::new("system"));
    let (tasks, _worker) = site.process([nightly]);
    sleep(HOUR + SECOND).await;
    let status = &tasks.schedules().await.unwrap()[0];
    assert_eq!(status.schedule().name(), "tick");
    assert_eq!(status.next_due(), Some(at("2026-01-11T03:00:00Z")));
    assert_eq!(status.last_due(), Some(at("2026-01-10T03:00:00Z")));
    let id = status.last_run().unwrap();
    assert_eq!(id.as_str(), "schedule/tick/2026-01-10T03:00:00Z");
    let run = tasks.status(id).await.unwrap();
    assert_eq!((run.queue(), run.task()), ("main", "act"));
    assert_eq!(run.principal(), Some(&Principal::new("system")));
    assert_eq!(run.state(), TaskState::Succeeded);
    assert_eq!(
        tasks.output::<Act>(id).await.unwrap(),
        "2026-01-10T03:00:00Z"
    );
}

/// The id is kept for as long as the schedule says, so that the due time does not run again, but no longer because the
/// run was a dead letter.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_sent_again_is_kept_as_long_as_any_run() {
    for (start_within, longest) in [(MINUTE, HOUR), (DAY, DAY)] {
        let is_broken = Arc::new(AtomicBool::new(true));
        let site = Site::new("2026-01-10T02:59:00Z");
        let script = {
            let is_broken = is_broken.clone();
            move |due, _| {
                let is_broken = is_broken.load(Ordering::SeqCst);
                async move {
                    match is_broken {
                        true => Err(TaskFailure::conflict(Broken)),
                        false => Ok(due),
                    }
                }
            }
        };
        let clock = site.clone();
        let tasks = builder(&site.backend, script)
            .clock(move || clock.now())
            .schedule(schedule("0 3 * * *").start_within(start_within))
            .max_attempts(1)
            .build();
        let _worker = tasks.work().unwrap();
        sleep(MINUTE * 2).await;
        let status = &tasks.schedules().await.unwrap()[0];
        let id = status.last_run().unwrap();
        let error = soon(tasks.output::<Act>(id)).await.unwrap_err();
        assert!(matches!(error, TaskError::Dead { .. }), "{error:?}");

        is_broken.store(false, Ordering::SeqCst);
        tasks.queue("main").send_again(id).await.unwrap();
        soon(tasks.output::<Act>(id)).await.unwrap();
        let expires = tasks.status(id).await.unwrap().expires();
        let kept = expires.duration_since(SystemTime::now()).unwrap();
        assert!(kept > longest / 2, "{kept:?} for {start_within:?}");
        assert!(kept <= longest, "{kept:?} for {start_within:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn missed_due_times_run_once_or_not_at_all() {
    for (missed, runs) in [
        (Missed::RunOnce, vec!["2026-01-13T03:00:00Z"]),
        (Missed::Skip, vec![]),
    ] {
        let site = Site::new("2026-01-10T12:00:00Z");
        let nightly = || [schedule("0 3 * * *").missed(missed)];
        let process = site.process(nightly());
        soon(sleep(SECOND)).await;
        drop(process);
        site.set("2026-01-13T12:00:00Z");
        let _process = site.process(nightly());
        sleep(HOUR).await;
        assert_eq!(site.take(), runs, "{missed:?}");
        // The next one runs as usual.
        site.sleep_until("2026-01-14T03:00:05Z").await;
        assert_eq!(site.take(), ["2026-01-14T03:00:00Z"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_due_time_on_time_stands_for_those_that_were_missed() {
    let site = Site::new("2026-01-10T12:00:30Z");
    drop((site.process([schedule("* * * * *")]), sleep(SECOND).await));
    site.set("2026-02-20T12:00:30Z");
    let _process = site.process([schedule("* * * * *")]);
    sleep(SECOND * 10).await;
    assert_eq!(site.runs(), ["2026-02-20T12:00:00Z"]);
}

#[tokio::test(start_paused = true)]
async fn the_latest_of_many_missed_due_times_runs() {
    for (expression, latest) in [
        ("*/7 * * * * *", "2029-05-05T05:05:00Z"),
        ("0 */5 * * *", "2029-05-05T05:00:00Z"),
        ("0 0 * * MON", "2029-04-30T00:00:00Z"),
        ("0 0 1 1 *", "2029-01-01T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
    ] {
        let site = Site::new("2026-01-10T12:00:00Z");
        drop((site.process([schedule(expression)]), sleep(SECOND).await));
        site.take();
        site.set("2029-05-05T05:05:05.500Z");
        let _process = site.process([schedule(expression).overlap(true)]);
        sleep(SECOND).await;
        // Due times within the last minute are on time, so all of them run.
        assert_eq!(
            site.runs().last().map(String::as_str),
            Some(latest),
            "{expression}"
        );
        assert!(site.runs().len() <= 9, "{expression}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_does_not_overlap_the_one_before_unless_asked() {
    let log = Log::start();
    for (overlap, expected) in [
        (false, ["10:01:00", "10:03:00", "10:05:00"].as_slice()),
        (
            true,
            &["10:01:00", "10:02:00", "10:03:00", "10:04:00", "10:05:00"],
        ),
    ] {
        let mut site = Site::new("2026-01-10T10:00:30Z");
        site.work = SECOND * 70;
        let every_minute = || [schedule("* * * * *").overlap(overlap)];
        let _processes = [site.process(every_minute()), site.process(every_minute())];
        sleep(SECOND * 350).await;
        let expected: Vec<_> = expected
            .iter()
            .map(|due| format!("2026-01-10T{due}Z"))
            .collect();
        assert_eq!(site.runs(), expected, "{overlap}");
    }
    assert!(
        log.text()
            .contains("the last run of its schedule has not ended"),
        "{}",
        log.text()
    );
}

#[tokio::test(start_paused = true)]
async fn a_deployment_changes_and_removes_schedules() {
    let site = Site::new("2026-01-10T09:50:00Z");
    let old = site.process([schedule("0 * * * *")]);
    sleep(HOUR).await;
    assert_eq!(site.take(), ["2026-01-10T10:00:00Z"]);
    // While both versions run, both definitions count, and a due time that they share runs once.
    let new = site.process([schedule("*/30 * * * *")]);
    sleep(HOUR).await;
    assert_eq!(
        site.take(),
        ["2026-01-10T11:00:00Z", "2026-01-10T11:30:00Z"]
    );
    drop(old);
    sleep(HOUR).await;
    assert_eq!(
        site.take(),
        ["2026-01-10T12:00:00Z", "2026-01-10T12:30:00Z"]
    );
    // Removed.
    drop(new);
    let without = site.process([]);
    sleep(HOUR * 5).await;
    assert!(site.take().is_empty());
    drop(without);
    // Back with the first definition: its due times since then were not missed.
    let _back = site.process([schedule("0 * * * *")]);
    sleep(MINUTE * 5).await;
    assert!(site.take().is_empty());
    sleep(MINUTE * 10).await;
    assert_eq!(site.take(), ["2026-01-10T18:00:00Z"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_schedule_begins_now_and_a_lost_plan_loses_no_due_time() {
    let mut site = Site::new("2026-01-10T10:00:30Z");
    let _process = site.process([schedule("0 * * * *")]);
    sleep(MINUTE).await;
    assert!(site.take().is_empty());
    // The process knows what it has decided.
    let deleted = site.backend.store().delete("task/schedule/tick").await;
    assert!(deleted.unwrap());
    sleep(HOUR).await;
    assert_eq!(site.take(), ["2026-01-10T11:00:00Z"]);
    site.work = SECOND;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_forward_misses_due_times() {
    let site = Site::new("2026-01-10T10:30:30Z");
    let _processes = [(); 3].map(|()| site.process([schedule("0 * * * *")]));
    sleep(MINUTE).await;
    site.set("2026-01-12T10:30:30Z");
    sleep(MINUTE).await;
    assert_eq!(site.take(), ["2026-01-12T10:00:00Z"]);
    site.sleep_until("2026-01-12T12:30:00Z").await;
    assert_eq!(
        site.take(),
        ["2026-01-12T11:00:00Z", "2026-01-12T12:00:00Z"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_backward_runs_no_due_time_again() {
    // A small step, a large one, and one that no process waits for.
    for back in [MINUTE * 40, HOUR * 5, DAY * 300] {
        let site = Site::new("2026-12-10T10:30:30Z");
        let _processes = [(); 3].map(|()| site.process([schedule("0 * * * *")]));
        sleep(HOUR * 6).await;
        let before = site.take();
        assert_eq!(before.len(), 6);
        let time = text(site.now() - back);
        site.set(&time);
        sleep(HOUR * 9).await;
        let after = site.take();
        let expected = due(&schedule("0 * * * *"), &time, &text(site.now()));
        let expected: Vec<_> = expected
            .into_iter()
            .filter(|due| !before.contains(due))
            .collect();
        assert_eq!(after, expected, "{back:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_one_machine_may_be_ahead() {
    let site = Site::new("2026-01-10T10:30:30Z");
    let ahead = site.clone();
    let tasks = builder(&site.backend, async |due, _| Ok(due))
        .clock(move || ahead.now() + DAY * 400)
        .schedule(schedule("0 * * * *"))
        .build();
    let wrong = tasks.work().unwrap();
    sleep(SECOND).await;
    let _processes = [(); 2].map(|()| site.process([schedule("0 * * * *")]));
    sleep(MINUTE).await;
    drop(wrong);
    sleep(HOUR * 3).await;
    let runs = site.runs();
    assert_eq!(
        runs[runs.len() - 2..],
        ["2026-01-10T12:00:00Z", "2026-01-10T13:00:00Z"]
    );
}

#[test]
fn daylight_saving_time_begins_and_ends() {
    let berlin = |expression| schedule(expression).time_zone("Europe/Berlin").unwrap();
    // On 2026-03-29, two o'clock is three o'clock.
    let spring = |expression| {
        due(
            &berlin(expression),
            "2026-03-28T12:00:00Z",
            "2026-03-30T12:00:00Z",
        )
    };
    // A time that does not exist runs right after the gap.
    assert_eq!(
        spring("30 2 * * *"),
        ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
    assert_eq!(
        spring("0 4 * * *"),
        ["2026-03-29T02:00:00Z", "2026-03-30T02:00:00Z"]
    );
    // On 2026-10-25, three o'clock is two o'clock again.
    let autumn = |expression| {
        due(
            &berlin(expression),
            "2026-10-24T12:00:00Z",
            "2026-10-26T12:00:00Z",
        )
    };
    // A time that comes twice runs once.
    assert_eq!(
        autumn("30 2 * * *"),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    // An interval goes on in both hours.
    let intervals = autumn("*/30 * * * *");
    let pairs = intervals.windows(2);
    for pair in pairs {
        assert_eq!(
            at(&pair[1]).duration_since(at(&pair[0])).unwrap(),
            MINUTE * 30
        );
    }
}

#[tokio::test(start_paused = true)]
async fn due_times_run_once_at_both_changes_of_daylight_saving_time() {
    for day in ["2026-03-28", "2026-10-24"] {
        let start = format!("{day}T12:00:00Z");
        let site = Site::new(&start);
        let berlin = || schedule("30 2 * * *").time_zone("Europe/Berlin").unwrap();
        let _processes = [(); 3].map(|()| site.process([berlin()]));
        sleep(DAY * 3).await;
        assert_eq!(site.runs(), due(&berlin(), &start, &text(site.now())));
        assert_eq!(site.runs().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_function_that_panics_costs_its_due_time() {
    let log = Log::start();
    let site = Site::new("2026-01-10T10:00:30Z");
    let broken = Schedule::new("tick", "main", "* * * * *", |due| {
        assert_ne!(due, at("2026-01-10T10:01:00Z"), "a bad time");
        act(text(due))
    });
    let _process = site.process([broken.unwrap()]);
    sleep(SECOND * 100).await;
    assert_eq!(site.runs(), ["2026-01-10T10:02:00Z"]);
    assert!(
        log.text().contains("a due time has no run"),
        "{}",
        log.text()
    );
}

#[test]
fn a_schedule_without_its_queue_is_reported() {
    let log = Log::start();
    let schedule = Schedule::new("tick", "unknown", "@daily", |_| act("x")).unwrap();
    let _tasks = builder(&Backend::memory(), async |due, _| Ok(due))
        .schedule(schedule)
        .build();
    assert!(
        log.text().contains("its queue was not added"),
        "{}",
        log.text()
    );
}

#[test]
fn invalid_schedules_say_what_is_wrong() {
    let new = |expression| Schedule::new("tick", "main", expression, |_| act("x"));
    let error = new("61 * * * *").unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"invalid cron expression: "61 * * * *""#
    );
    assert!(std::error::Error::source(&error).is_some());
    let error = new("@daily")
        .unwrap()
        .time_zone("Europe/Atlantis")
        .unwrap_err();
    assert_eq!(error.to_string(), r#"invalid time zone: "Europe/Atlantis""#);
}
