//! The time from the death of a process to the first pass in another one, over a SQLite file.
//!
//! A worker process runs an operation whose promise does not end. It is killed as by `kill -9`, and a second worker
//! process, which is idle until then, continues.

use crate::server::{layer, service};
use axum::Router;
use axum::body::Body;
use benches::{Percentiles, head, row};
use std::future::pending;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tower::ServiceExt;
use tower_promises::operations::OperationLayer;

const FILE: &str = "BENCH_DURABLE_FILE";

const LEASE: Duration = Duration::from_secs(2);

const ROUNDS: usize = 20;

/// What a worker prints when a pass begins.
const PASS: &str = "pass";

pub(crate) fn is_worker() -> bool {
    std::env::var_os(FILE).is_some()
}

async fn leasing(file: &Path) -> OperationLayer {
    layer(crate::sqlite(file).await)
        .lease(LEASE)
        .max_recoveries(1000)
}

/// The work of a worker process.
pub(crate) async fn work() {
    // Ends when the process that started it ends.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let file = std::env::var_os(FILE).unwrap();
    let operations = leasing(Path::new(&file)).await.operations();
    println!("ready");
    let inner = service(|promises| {
        println!("{PASS}");
        promises.durable("endless", pending::<String>)
    });
    operations.work::<_, Body, _>(inner).await.unwrap();
}

/// A worker process. It is killed on drop.
struct Worker {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(file: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut worker = Self { process, output };
        worker.wait_for("ready");
        worker
    }

    fn wait_for(&mut self, wanted: &str) {
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            assert!(
                self.output.read_line(&mut line).unwrap() > 0,
                "it has ended"
            );
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) async fn measure(file: &Path) {
    eprintln!("SQLite: {ROUNDS} killed processes …");
    let front: Router = Router::new().layer(leasing(file).await);
    let request = axum::extract::Request::post("/").body(Body::empty());
    let response = front.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 202);
    let file = file.to_owned();
    let measured = tokio::task::spawn_blocking(move || {
        let mut runs = Worker::start(&file);
        runs.wait_for(PASS);
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let mut idle = Worker::start(&file);
            // Deaths at different times after the renewals of the lease, which come three times in it.
            let part = u32::try_from(round).unwrap() * LEASE / 3 / u32::try_from(ROUNDS).unwrap();
            std::thread::sleep(LEASE + part);
            let death = Instant::now();
            drop(runs);
            idle.wait_for(PASS);
            times.push(death.elapsed());
            runs = idle;
        }
        Percentiles::of(times)
    });
    let times = measured.await.unwrap();
    let goal = (LEASE + Duration::from_secs(1)).as_secs_f64() * 1e3;
    println!();
    let columns = [
        "recovery",
        "p50, ms",
        "longest, ms",
        "budget, ms",
        "verdict",
    ];
    head(&columns);
    let verdict = if times.longest <= goal {
        "holds"
    } else {
        "exceeded"
    };
    let cells = [
        format!("SQLite, lease {LEASE:?}"),
        format!("{:.0}", times.p50),
        format!("{:.0}", times.longest),
        format!("{goal:.0}"),
        verdict.to_owned(),
    ];
    row(&cells, columns.len());
}
