//! Processor time of the server and of this process, which depends less on the load of the machine than elapsed time.

use std::fs;
use std::time::Duration;
use test_support::postgres::Server;
use tower_promises_postgres::sqlx::Row;

/// The unit of `/proc`: a hundredth of a second.
const TICK: Duration = Duration::from_millis(10);

/// Measures from its creation on.
pub(crate) struct Cpu {
    postmaster: i32,
    before: [Duration; 2],
}

impl Cpu {
    pub(crate) async fn start(server: &Server) -> Self {
        let postmaster = loop {
            let rows = server.execute("SELECT pg_backend_pid()").await;
            // The process of a connection may end with the call.
            if let Some(backend) = stat(rows[0].get(0)) {
                break backend.parent;
            }
        };
        Self {
            postmaster,
            before: used(postmaster),
        }
    }

    /// The microseconds of the server and of this process for each of a number of jobs.
    pub(crate) fn per_job(&self, jobs: usize) -> [f64; 2] {
        let used = used(self.postmaster);
        let per_job = |part: usize| {
            let used = used[part].saturating_sub(self.before[part]);
            used.as_secs_f64() * 1e6 / jobs as f64
        };
        [per_job(0), per_job(1)]
    }
}

fn used(postmaster: i32) -> [Duration; 2] {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let server = numbers.filter_map(stat).filter_map(|stat| {
        // The postmaster has the time of those of its processes that have ended.
        match stat.number == postmaster {
            true => Some(stat.own + stat.ended),
            false => (stat.parent == postmaster).then_some(stat.own),
        }
    });
    let server = server.sum();
    [server, stat(std::process::id().cast_signed()).unwrap().own]
}

struct Stat {
    number: i32,
    parent: i32,
    own: Duration,
    ended: Duration,
}

/// `None` if the process has ended.
fn stat(number: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The name, in parentheses, may contain spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| Some(TICK * fields.get(field)?.parse().ok()?);
    Some(Stat {
        number,
        parent: fields.get(1)?.parse().ok()?,
        own: ticks(11)? + ticks(12)?,
        ended: ticks(13)? + ticks(14)?,
    })
}
