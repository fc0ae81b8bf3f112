//! Operations of real processes that share a file: the remains of a killed process, and the answers of the others.

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{DATE, ETAG, RETRY_AFTER};
use http::{HeaderMap, Method};
use serde_json::Value;
use std::time::Duration;
use tempfile::TempDir;
use test_support::example::{BOUND, Example, soon, until};
use tokio::time::sleep;

/// Short, because tests wait for its end. Long enough for a busy machine to renew it.
const LEASE: Duration = Duration::from_secs(4);

const LONG: &str = "ms=600000&steps=6000";

/// The directory of a database.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// Starts a process that uses the database.
    fn start(&self) -> Process {
        self.start_with(&[])
    }

    fn start_with_short_lease(&self) -> Process {
        self.start_with(&[("LEASE_MS", &LEASE.as_millis().to_string())])
    }

    fn start_with(&self, environment: &[(&str, &str)]) -> Process {
        let store = format!("sqlite:{}", self.0.path().join("operations.db").display());
        let environment = [&[("STORE", store.as_str())], environment].concat();
        Process(Example::start_with(
            env!("CARGO_BIN_EXE_operations"),
            &environment,
        ))
    }
}

/// A response that has been read.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: u16,
    /// Without the `date` header.
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

struct Process(Example);

impl Process {
    /// Kills the process.
    fn kill(self) {
        drop(self.0);
    }

    async fn ask(&self, method: Method, path: &str) -> Answer {
        self.ask_with(method, path, HeaderMap::new()).await
    }

    async fn ask_with(&self, method: Method, path: &str, headers: HeaderMap) -> Answer {
        let request = self.0.client.request(method, self.0.url.clone() + path);
        let request = request.headers(headers).timeout(BOUND);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let mut headers = response.headers().clone();
        headers.remove(DATE);
        let body = response.bytes().await.unwrap();
        Answer {
            status,
            headers,
            body,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path).await
    }

    async fn status(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Starts an operation and returns its path.
    async fn begin(&self, query: &str) -> String {
        for _ in 0..10 {
            if let Some(path) = self.try_begin(query).await {
                return path;
            }
        }
        panic!("the work always ends before it becomes an operation");
    }

    /// Starts an operation and returns its path, or `None` if the work ends before the first reply.
    async fn try_begin(&self, query: &str) -> Option<String> {
        let path = format!("/work?{query}");
        let prefer = ("prefer".parse().unwrap(), "respond-async".parse().unwrap());
        let headers = HeaderMap::from_iter([prefer]);
        let answer = self.ask_with(Method::POST, &path, headers).await;
        if answer.status != 202 {
            assert!(!answer.headers.contains_key("location"), "{answer:?}");
            return None;
        }
        let location = &answer.headers["operation-location"];
        Some(location.to_str().unwrap().to_owned())
    }

    /// Waits until the work has reported progress.
    async fn until_progress(&self, path: &str) {
        until("there is progress", async || {
            !self.status(path).await["progress"].is_null()
        })
        .await;
    }

    /// Requests a resource at the intervals of its `Retry-After`, until the answer is final.
    async fn until_final(&self, path: &str) -> Answer {
        let answer = async {
            loop {
                let answer = self.get(path).await;
                let Some(delay) = answer.headers.get(RETRY_AFTER) else {
                    return answer;
                };
                let delay = delay.to_str().unwrap().parse().unwrap();
                sleep(Duration::from_secs(delay)).await;
            }
        };
        soon(answer).await
    }

    /// Returns all events until the stream ends, each with its name.
    async fn events(&self, path: &str) -> Vec<(String, Value)> {
        let answer = self.get(&format!("{path}/events")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = std::str::from_utf8(&answer.body).unwrap();
        // Comments have no `data` and no `event`.
        let events = text.split("\n\n").filter_map(|block| {
            let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
            let data = serde_json::from_str(field("data: ")?).unwrap();
            Some((field("event: ")?.to_owned(), data))
        });
        events.collect()
    }

    /// Returns the single event of an operation that has ended.
    async fn only_event(&self, path: &str) -> Value {
        let [(name, document)] = self.events(path).await.try_into().unwrap();
        assert_eq!(name, "done");
        document
    }

    /// Checks that the operation is unknown.
    async fn has_forgotten(&self, path: &str) {
        for resource in ["", "/result", "/events"] {
            assert_eq!(self.get(&format!("{path}{resource}")).await.status, 404);
        }
    }
}

/// Checks that an operation is lost, on all of its resources.
async fn assert_lost(process: &Process, path: &str) {
    let document = process.status(path).await;
    assert_eq!(document["status"], "Failed", "{document}");
    assert_eq!(document["error"]["code"], "Lost");
    assert_ne!(document["error"]["message"], "");
    assert_eq!(process.only_event(path).await, document);
    let result = process.get(&format!("{path}/result")).await;
    assert_eq!(
        (result.status, &result.headers["asyncresult"]),
        (500, &"500".parse().unwrap())
    );
    assert_eq!(result.headers["content-type"], "application/problem+json");
    let cancel = process.ask(Method::POST, &format!("{path}/cancel")).await;
    assert_eq!(cancel.status, 409);
}

// Contract: 7.16
#[tokio::test]
async fn an_ended_operation_survives_a_kill() {
    let folder = Folder::new();
    let process = folder.start();
    let mut before = Vec::new();
    for query in [
        "ms=300",
        "ms=300&steps=2&fail=1",
        "ms=300&code=202",
        "ms=300&code=204",
    ] {
        let path = process.begin(query).await;
        process.events(&path).await;
        let result = process.get(&format!("{path}/result")).await;
        before.push((process.get(&path).await, result, path));
    }
    let statuses: Vec<_> = before.iter().map(|(_, result, _)| result.status).collect();
    assert_eq!(statuses, [200, 422, 200, 204]);
    process.kill();

    let process = folder.start();
    for (document, result, path) in before {
        assert_eq!(process.get(&path).await, document);
        assert_eq!(process.only_event(&path).await, document.json());
        let last = &document.headers[ETAG].to_str().unwrap().replace('"', "");
        let last =
            HeaderMap::from_iter([("last-event-id".parse().unwrap(), last.parse().unwrap())]);
        let events = process
            .ask_with(Method::GET, &format!("{path}/events"), last)
            .await;
        assert_eq!(events.status, 204);
        let path_of_result = format!("{path}/result");
        assert_eq!(process.get(&path_of_result).await, result);
        let head = process.ask(Method::HEAD, &path_of_result).await;
        assert_eq!(
            (head.status, &head.headers),
            (result.status, &result.headers)
        );
        let cancel = process.ask(Method::POST, &format!("{path}/cancel")).await;
        assert_eq!(cancel.status, 409);
        assert_eq!(process.ask(Method::DELETE, &path).await.status, 204);
        process.has_forgotten(&path).await;
    }
}

// Contract: 7.16
#[tokio::test]
async fn a_running_operation_is_lost_after_the_lease() {
    let folder = Folder::new();
    let process = folder.start_with_short_lease();
    let [status, result, events] = join_all([LONG; 3].map(|query| process.begin(query)))
        .await
        .try_into()
        .unwrap();
    for path in [&status, &result, &events] {
        process.until_progress(path).await;
    }
    process.kill();

    let process = folder.start_with_short_lease();
    // The first request detects the loss, on any resource.
    let path_of_result = format!("{result}/result");
    let (document, answer, events_until_end) = tokio::join!(
        process.until_final(&status),
        process.until_final(&path_of_result),
        process.events(&events),
    );
    assert_eq!(document.json()["error"]["code"], "Lost");
    assert_eq!(answer.status, 500);
    let (name, document) = events_until_end.last().unwrap();
    assert_eq!(
        (name.as_str(), &document["error"]["code"]),
        ("done", &"Lost".into())
    );
    // The last progress is still shown.
    assert!(document["progress"].is_number(), "{document}");
    for path in [&status, &result, &events] {
        assert_lost(&process, path).await;
        assert_eq!(process.ask(Method::DELETE, path).await.status, 204);
        process.has_forgotten(path).await;
    }
}

#[tokio::test]
async fn a_running_operation_can_be_cancelled_before_the_lease_ends() {
    let folder = Folder::new();
    let process = folder.start();
    let paths = join_all([LONG; 2].map(|query| process.begin(query))).await;
    for path in &paths {
        process.until_progress(path).await;
    }
    process.kill();

    let process = folder.start();
    for (path, method, resource) in [
        (&paths[0], Method::DELETE, ""),
        (&paths[1], Method::POST, "/cancel"),
    ] {
        let path_of_result = format!("{path}/result");
        assert_eq!(process.status(path).await["status"], "Running");
        assert_eq!(process.get(&path_of_result).await.status, 202);
        let cancelled = process.ask(method, &format!("{path}{resource}")).await;
        assert_eq!(
            (cancelled.status, &cancelled.json()["status"]),
            (200, &"Canceled".into())
        );
        assert_eq!(process.only_event(path).await, cancelled.json());
        assert_eq!(process.get(&path_of_result).await.status, 410);
    }
}

#[tokio::test]
async fn a_kill_in_the_middle_leaves_nothing_half_done() {
    let folder = Folder::new();
    let process = folder.start_with_short_lease();
    let queries: Vec<_> = (0..40)
        .map(|number| format!("ms={}&steps=10", 50 * number))
        .chain([LONG.to_owned()])
        .collect();
    let paths = join_all(queries.iter().map(|query| process.try_begin(query))).await;
    let paths: Vec<_> = paths.into_iter().flatten().collect();
    let middle = paths.len() / 2;
    process.events(&paths[middle]).await;
    // Some of the other operations are stored, some are running, and some are about to be stored.
    process.kill();

    let process = folder.start_with_short_lease();
    let documents = join_all(paths.iter().map(|path| process.until_final(path))).await;
    let mut lost = 0;
    for (path, document) in paths.iter().zip(documents) {
        let document = document.json();
        if document["status"] == "Succeeded" {
            let result = process.get(&format!("{path}/result")).await;
            let answer = (result.status, &*result.body);
            assert_eq!(answer, (200, &br#"{"answer":42}"#[..]));
        } else {
            assert_lost(&process, path).await;
            lost += 1;
        }
    }
    assert!((1..paths.len()).contains(&lost), "{lost} are lost");
}

#[tokio::test]
async fn each_of_two_processes_answers_for_the_other() {
    let folder = Folder::new();
    let [worker, other] = [folder.start(), folder.start()];
    let path = worker.begin("ms=4000&steps=10&code=201").await;
    let document = other.status(&path).await;
    assert_eq!(document["status"], "Running");
    assert_eq!(other.get(&format!("{path}/result")).await.status, 202);
    let events = other.events(&path).await;
    // The progress reaches the other process as it is reported.
    let progress: Vec<_> = events
        .iter()
        .filter_map(|(_, document)| document["progress"].as_f64())
        .collect();
    assert!(progress.is_sorted() && progress.len() > 2, "{progress:?}");
    let (name, document) = events.last().unwrap();
    assert_eq!(
        (name.as_str(), &document["status"]),
        ("done", &"Succeeded".into())
    );

    for resource in ["", "/result"] {
        let resource = format!("{path}{resource}");
        assert_eq!(other.get(&resource).await, worker.get(&resource).await);
    }
    assert_eq!(other.get(&format!("{path}/result")).await.status, 201);
    assert_eq!(other.ask(Method::DELETE, &path).await.status, 204);
    worker.has_forgotten(&path).await;
}

#[tokio::test]
async fn a_cancel_reaches_the_process_that_works() {
    let folder = Folder::new();
    let [worker, other] = [folder.start(), folder.start()];
    let path = worker.begin(LONG).await;
    worker.until_progress(&path).await;
    let follower = async { worker.events(&path).await };
    let cancel = async { other.ask(Method::POST, &format!("{path}/cancel")).await };
    let (events, cancelled) = tokio::join!(follower, cancel);
    assert_eq!(cancelled.json()["status"], "Canceled");
    assert_eq!(
        events.last().unwrap(),
        &("done".to_owned(), cancelled.json())
    );
    // The work was dropped: at its end, the process counts the operations that it gives up.
    let output = worker.0.interrupt().await;
    assert!(output.ends_with("0 operations were given up\n"), "{output}");
    assert_eq!(other.get(&format!("{path}/result")).await.status, 410);
}

#[tokio::test]
async fn one_of_two_processes_is_killed() {
    let folder = Folder::new();
    let [victim, survivor] = [
        folder.start_with_short_lease(),
        folder.start_with_short_lease(),
    ];
    let lost = victim.begin(LONG).await;
    victim.until_progress(&lost).await;
    // Longer than a lease, so the lease must be renewed.
    let query = format!("ms={}", 2 * LEASE.as_millis());
    let kept = survivor.begin(&query).await;
    victim.kill();

    let events = survivor.events(&lost).await;
    assert_eq!(events.last().unwrap().1["error"]["code"], "Lost");
    assert_lost(&survivor, &lost).await;

    let result = survivor.until_final(&format!("{kept}/result")).await;
    assert_eq!(
        (result.status, &*result.body),
        (200, &br#"{"answer":42}"#[..])
    );
    // The process still accepts new work.
    let path = survivor.begin("ms=300").await;
    survivor.events(&path).await;
    assert_eq!(survivor.status(&path).await["status"], "Succeeded");
}
