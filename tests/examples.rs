//! The examples as a user meets them: started as processes, used over HTTP.
#![allow(clippy::unwrap_used)]

#[path = "support/example.rs"]
mod example;

use example::{Example, binary, until};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

#[tokio::test]
async fn quickstart() {
    let example = Example::start("quickstart");
    assert_eq!(
        example.get("/users/42").await,
        "Hello, User 42!\nYou have 7 messages.\n"
    );
}

#[tokio::test]
async fn hyper() {
    let example = Example::start("hyper");
    assert_eq!(
        example.post("/", "das ist ein Text").await,
        (200, "German\n".into())
    );
    assert_eq!(
        example.post("/", "this is a text").await,
        (200, "English\n".into())
    );
    assert_eq!(
        example.post("/", " ").await,
        (500, "no language found\n".into())
    );
}

/// The number in the element with this id.
fn number(page: &str, id: &str) -> u64 {
    let (_, element) = page.split_once(&format!("id=\"{id}\">")).unwrap();
    element.split('<').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn dashboard() {
    let example = Example::start("dashboard");
    let page = example.get("/").await;
    for text in ["Hello, Ferris!", "3 on their way", "sunny somewhere"] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
    assert_eq!(number(&page, "passes"), 2);
    assert!(
        number(&page, "elapsed") >= 400,
        "not before the slowest upstream answered"
    );

    let page = example.get("/?weather=fail").await;
    assert!(
        page.contains("not available") && page.contains("3 on their way"),
        "{page}"
    );

    let page = example.get("/?weather=hang").await;
    assert!(
        page.contains("takes too long") && page.contains("3 on their way"),
        "{page}"
    );

    let page = example.get("/?weather=depends").await;
    assert!(page.contains("sunny in Augsburg"), "{page}");
    assert_eq!(number(&page, "passes"), 3);
}

#[tokio::test]
async fn transaction() {
    let example = Example::start("transaction");
    assert_eq!(example.get("/").await, "orders:\naudit:\n");
    let order = example.post("/orders?item=tea", "").await;
    assert_eq!(order, (200, "tea for 3 coins\n".into()));
    assert_eq!(
        example.get("/").await,
        "orders:\n  tea, written by pass 2\naudit:\n"
    );
    let order = example.post("/audited-orders?item=cake", "").await;
    assert_eq!(order, (200, "cake for 4 coins\n".into()));
    assert_eq!(
        example.get("/").await,
        "orders:\n  tea, written by pass 2\n  cake, written by pass 2\n\
         audit:\n  cake, written by pass 1\n"
    );
}

#[tokio::test]
async fn library() {
    let example = Example::start("library");
    let page = example.get("/").await;
    assert!(
        page.contains("Book 1 by Author 2 (essay, paper)\n"),
        "{page}"
    );
    assert!(
        page.contains("Book 50 by Author 1 (novel, paper)\n"),
        "{page}"
    );
    assert!(
        page.ends_with("3 queries instead of 101, in 3 passes\n"),
        "{page}"
    );
}

#[tokio::test]
async fn upload() {
    let folder = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let uploads = folder.path().to_str().unwrap();
    let example = Example::start_with("upload", &[("UPLOADS", uploads)]);

    // Larger than what is kept for replay.
    let chunks =
        futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![0; 100_000])));
    let request = example
        .client
        .put(&example.url)
        .body(reqwest::Body::wrap_stream(chunks));
    let answer = request.send().await.unwrap().text().await.unwrap();
    // What `head -c 10000000 /dev/zero | sha256sum` says.
    let digest = "f5e02aa71e67f41d79023a128ca35bad86cf7b6656967bfe0884b3a3c4325eaf";
    assert_eq!(answer, format!("10000000 bytes, SHA-256 {digest}\n"));
    let stored = std::fs::read(folder.path().join(digest)).unwrap();
    assert_eq!((stored.len(), files()), (10_000_000, 1));

    // A client that stops half-way leaves nothing behind.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let body = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let request = example
        .client
        .put(&example.url)
        .body(reqwest::Body::wrap_stream(body));
    let request = tokio::spawn(request.send());
    sender
        .send(Ok::<_, std::io::Error>(vec![1; 100_000]))
        .await
        .unwrap();
    until(|| files() == 2).await;
    request.abort();
    assert!(request.await.is_err());
    drop(sender);
    until(|| files() == 1).await;
}

#[tokio::test]
async fn upstream() {
    let example = Example::start("upstream");
    assert_eq!(
        example.get("/tea").await,
        "tea for 3 coins, 3 calls so far\n"
    );
    let requests = (0..100).map(|_| example.get("/cake"));
    for answer in futures_util::future::join_all(requests).await {
        assert_eq!(answer, "cake for 4 coins, 6 calls so far\n");
    }
}

#[tokio::test]
async fn chat() {
    let example = Example::start("chat");
    assert!(example.get("/").await.contains("<form method=\"post\""));
    let page = example.get("/rooms/lobby?seconds=0").await;
    assert!(page.contains("<p>nobody answered</p>"), "{page}");
    let (status, page) = example.post("/rooms/empty", "hello").await;
    assert_eq!(status, 200);
    assert!(page.contains("heard by 0"), "{page}");
    let (status, _) = example
        .post("/rooms/lobby", "long ".repeat(1000).leak())
        .await;
    assert_eq!(status, 413);

    // Waits until somebody waits, however long that takes.
    let say = async {
        loop {
            let form = example
                .client
                .post(format!("{}/rooms/lobby", example.url))
                .header("content-type", "application/x-www-form-urlencoded")
                .body("text=%3Cb%3Ehello+%26+welcome%3C%2Fb%3E");
            let response = form.send().await;
            let page = response.unwrap().text().await.unwrap();
            if page.contains("heard by 1") {
                break;
            }
            assert!(page.contains("heard by 0"), "{page}");
        }
    };
    let both = futures_util::future::join(example.get("/rooms/lobby?seconds=60"), say);
    let (page, ()) = tokio::time::timeout(std::time::Duration::from_secs(60), both)
        .await
        .unwrap();
    assert!(
        page.contains("<q>&lt;b&gt;hello &amp; welcome&lt;&#x2f;b&gt;</q>"),
        "{page}"
    );
}

#[tokio::test]
async fn operations() {
    let example = Example::start("operations");
    assert!(
        example
            .get("/form")
            .await
            .contains("/work?ms=2500&amp;steps=5")
    );
    let quick = example.post("/work?ms=0", "").await;
    assert_eq!(quick, (200, r#"{"answer":42}"#.into()));
    let failed = example.post("/work?ms=0&fail=1", "").await;
    assert_eq!(failed.0, 422);
    assert_eq!(example.post("/work?ms=0&code=201", "").await.0, 201);

    let start = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), 202);
        let location = &response.headers()["operation-location"];
        format!("{}{}", example.url, location.to_str().unwrap())
    };
    let ask = async |url: &str| example.client.get(url).send().await.unwrap();
    let result = async |url: &str| {
        let url = format!("{url}/result");
        loop {
            let response = ask(&url).await;
            if response.status() != 202 {
                return response;
            }
            tokio::task::yield_now().await;
        }
    };
    let work = example
        .client
        .put(format!("{}/work?ms=1000&steps=4&code=202", example.url));
    let path = start(work).await;
    let events = ask(&format!("{path}/events")).await.text().await.unwrap();
    assert!(events.contains("\"progress\":50"), "{events}");
    assert!(events.contains("event: done"), "{events}");
    let response = result(&path).await;
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["asyncresult"]
        ),
        (200, &"202".parse().unwrap())
    );
    assert_eq!(response.text().await.unwrap(), r#"{"answer":42}"#);

    // Promises that block their threads report progress.
    let path = start(example.client.get(format!("{}/report", example.url))).await;
    let events = ask(&format!("{path}/events")).await.text().await.unwrap();
    assert!(events.contains("adding up the south"), "{events}");
    let page = result(&path).await.text().await.unwrap();
    assert!(page.contains("<tr><th>west<td>"), "{page}");

    let path = start(
        example
            .client
            .post(format!("{}/work?ms=60000", example.url)),
    )
    .await;
    let deleted = example.client.delete(&path).send().await.unwrap();
    assert!(deleted.text().await.unwrap().contains("\"Canceled\""));
    assert_eq!(ask(&format!("{path}/result")).await.status().as_u16(), 410);
}

#[tokio::test]
async fn operations_with_an_origin() {
    let origin = [("PUBLIC_ORIGIN", "https://example.com")];
    let example = Example::start_with("operations", &origin);
    let url = format!("{}/work?ms=5000", example.url);
    let response = example.client.post(url).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap();
    assert!(
        location.starts_with("https://example.com/.operations/"),
        "{location}"
    );
}

/// A span as OpenTelemetry has exported it.
#[derive(Debug, Default)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
    attributes: Vec<String>,
}

impl Span {
    /// Those in the output of the exporter that are whole.
    fn all(output: &str) -> Vec<Self> {
        let blocks = output.split("Span #").skip(1);
        blocks.map(Self::parse).collect()
    }

    fn parse(block: &str) -> Self {
        let mut span = Self::default();
        // The attributes of events are none of the span.
        let block = block.split("\tEvents:").next().unwrap();
        for line in block.lines() {
            // That of the instrumentation stands deeper.
            let line = line.strip_prefix('\t').unwrap_or_default();
            if let Some(attribute) = line.strip_prefix("\t ->  ") {
                span.attributes.push(attribute.to_owned());
            }
            let Some((field, value)) = line.split_once(": ") else {
                continue;
            };
            match field.trim_end() {
                "Name" => span.name = value.to_owned(),
                "TraceId" => span.trace = value.to_owned(),
                "SpanId" => span.id = value.to_owned(),
                "ParentSpanId" => span.parent = value.to_owned(),
                _ => {}
            }
        }
        span
    }

    /// The text of an attribute, or its number.
    fn attribute(&self, name: &str) -> &str {
        let text = format!("{name}: String(Owned(\"");
        let number = format!("{name}: I64(");
        let attribute = self.attributes.iter().find_map(|it| {
            if let Some(value) = it.strip_prefix(&text) {
                return value.strip_suffix("\"))");
            }
            it.strip_prefix(&number)?.strip_suffix(')')
        });
        attribute.unwrap_or_else(|| panic!("{self:?} has no `{name}`"))
    }
}

/// Asserts that this trace is a request of the page, with all that happened for it.
fn assert_is_trace_of_the_page(spans: &[&Span]) {
    let named = |name| {
        let spans = spans.iter().filter(move |span| span.name == name);
        spans.copied().collect::<Vec<_>>()
    };
    let (requests, all) = (named("request"), named("promises"));
    assert_eq!((requests.len(), all.len()), (1, 1), "{spans:#?}");
    assert!(requests[0].parent.contains("root"), "{spans:#?}");
    assert_eq!(all[0].parent, requests[0].id);
    assert_eq!(all[0].attribute("outcome"), "published");

    let passes = named("pass");
    assert!(passes.iter().all(|pass| pass.parent == all[0].id));
    let fates: Vec<_> = passes
        .iter()
        .map(|pass| (pass.attribute("pass"), pass.attribute("outcome")))
        .collect();
    let wanted = [("1", "discarded"), ("2", "discarded"), ("3", "published")];
    assert_eq!(fates, wanted);

    let promises = named("promise");
    let fates: BTreeSet<_> = promises
        .iter()
        .map(|promise| {
            let pass = passes.iter().find(|pass| pass.id == promise.parent);
            let pass = pass.unwrap().attribute("pass");
            assert_eq!(promise.attribute("pass"), pass);
            (pass, promise.attribute("key"), promise.attribute("outcome"))
        })
        .collect();
    let wanted = BTreeSet::from([
        ("1", "advertisement", "failed"),
        ("1", "invoice", "fulfilled"),
        ("1", "primes", "fulfilled"),
        ("1", "user:Ferris", "fulfilled"),
        ("1", "weather", "fulfilled"),
        ("2", "orders:7", "fulfilled"),
    ]);
    assert_eq!(fates, wanted);

    // The task is a part of the request, whoever runs it.
    let tasks = named("invoice");
    assert_eq!(tasks.len(), 1, "{spans:#?}");
    assert_eq!(tasks[0].parent, requests[0].id);

    // The spans of what promises and tasks do are below theirs.
    let (in_tasks, in_promises): (Vec<_>, Vec<_>) = named("query")
        .into_iter()
        .partition(|query| query.parent == tasks[0].id);
    assert_eq!(in_tasks.len(), 1, "{spans:#?}");
    let keys: BTreeSet<_> = in_promises
        .iter()
        .map(|query| {
            let promise = promises.iter().find(|promise| promise.id == query.parent);
            promise.unwrap().attribute("key")
        })
        .collect();
    assert_eq!(keys, BTreeSet::from(["orders:7", "user:Ferris"]));
}

/// The traces in this output, each one with all of its spans.
fn traces(spans: &[Span]) -> Vec<Vec<&Span>> {
    let requests = spans.iter().filter(|span| span.name == "request");
    let trace = |request: &Span| {
        let spans = spans.iter().filter(|span| span.trace == request.trace);
        spans.collect()
    };
    requests.map(trace).collect()
}

#[tokio::test]
async fn observability() {
    let example = Example::start_with("observability", &[("RUST_LOG", "error")]);
    let response = example.client.get(&example.url).send().await.unwrap();
    assert_eq!(response.status(), 200);

    let timing = response.headers()["server-timing"].to_str().unwrap();
    let names: Vec<_> = timing
        .split(", ")
        .map(|entry| entry.split(';').next().unwrap())
        .collect();
    assert_eq!(names[..3], ["pass-1", "pass-2", "pass-3"]);
    // Those of the first pass in the order in which they settled.
    let first: BTreeSet<_> = names[3..8].iter().copied().collect();
    let wanted = [
        "advertisement",
        "invoice",
        "primes",
        "user_Ferris",
        "weather",
    ];
    assert_eq!(first, BTreeSet::from(wanted));
    assert_eq!(names[8..], ["orders_7"]);
    assert!(timing.contains("advertisement;desc=\"advertisement (failed)\";dur="));

    let page = response.text().await.unwrap();
    assert!(
        page.contains(
            "7 orders, an invoice for Ferris, 669 primes, sunny weather, no advertisement"
        ),
        "{page}"
    );

    let metrics = example.get("/metrics").await;
    for (family, kind, series) in [
        ("passes_total", "counter", "{outcome=\"discarded\"} 2"),
        ("passes_total", "counter", "{outcome=\"published\"} 1"),
        ("promises_total", "counter", "{outcome=\"failed\"} 1"),
        ("promises_total", "counter", "{outcome=\"fulfilled\"} 5"),
        ("requests_in_flight", "gauge", " 0"),
        ("promises_in_flight", "gauge", " 0"),
        ("blocking_jobs_in_flight", "gauge", " 0"),
        (
            "pass_duration_seconds",
            "histogram",
            "_count{outcome=\"published\"} 1",
        ),
        (
            "promise_duration_seconds",
            "histogram",
            "_bucket{outcome=\"fulfilled\",le=\"0.001\"} 0",
        ),
        (
            "promise_duration_seconds",
            "histogram",
            "_bucket{outcome=\"fulfilled\",le=\"+Inf\"} 5",
        ),
    ] {
        let family = format!("tower_promises_{family}");
        let has = |line: &str| metrics.lines().any(|it| it == line);
        assert!(has(&format!("# TYPE {family} {kind}")), "{metrics}");
        assert!(metrics.contains(&format!("# HELP {family} ")), "{metrics}");
        assert!(
            has(&format!("{family}{series}")),
            "{family}{series}: {metrics}"
        );
    }

    // The span of a request ends last, and a batch is exported soon.
    until(|| !traces(&Span::all(&example.output())).is_empty()).await;
    example.get("/").await;
    // The last batch is exported before the process ends.
    let output = example.interrupt();
    let spans = Span::all(&output);
    let traces = traces(&spans);
    assert_eq!(traces.len(), 2, "{output}");
    for trace in traces {
        assert_is_trace_of_the_page(&trace);
    }
}

#[test]
fn operations_say_which_setting_is_wrong() {
    for (variable, value) in [("LEASE_MS", "soon"), ("STORE", "redis")] {
        let ended = Command::new(binary("operations"))
            .env("ADDR", "127.0.0.1:0")
            .env(variable, value)
            .output()
            .unwrap();
        assert!(!ended.status.success());
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(text.contains(&format!("`{value}`")), "{text}");
    }
}

#[tokio::test]
async fn tasks() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("tasks.db");
    let alone = Example::start_with("tasks", &[("DATABASE", database.to_str().unwrap())]);
    let report = format!("report 2026 for ada, by process {}\n", alone.process.id());
    assert_eq!(alone.get("/reports/2026").await, report);
    drop(alone);

    let role = |role| [("DATABASE", database.to_str().unwrap()), ("ROLE", role)];
    let web = Example::start_with("tasks", &role("web"));
    let mut worker = Command::new(binary("tasks"))
        .envs(role("worker"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let report = format!("report 2027 for ada, by process {}\n", worker.id());
    assert_eq!(web.get("/reports/2027").await, report);
    worker.kill().unwrap();
    worker.wait().unwrap();
}

/// The processes of the cluster, by name, and what they do. `None` for one that is not there.
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

/// Waits until all processes of the cluster are there, except for an old one.
async fn complete(example: &Example, without: Option<&str>) -> Vec<String> {
    let all = async {
        loop {
            let members = members(example).await;
            let processes: Vec<_> = members.into_iter().filter_map(|it| it.1).collect();
            let is_old = |process: &String| without.is_some_and(|old| old == process);
            if processes.len() == 4 && !processes.iter().any(is_old) {
                return processes;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .unwrap()
}

#[tokio::test]
async fn cluster() {
    let example = Example::start("cluster");
    let processes = complete(&example, None).await;

    // Every request may land on either instance, so those for the operation do, too.
    let url = format!("{}/report?seconds=2", example.url);
    let response = example.client.get(url).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 202);
    let path = response.headers()["operation-location"].to_str().unwrap();
    let mut instances = BTreeSet::new();
    loop {
        let document = example.client.get(format!("{}{path}", example.url));
        let document = document.send().await.unwrap();
        let instance = &document.headers()["x-served-by"];
        instances.insert(instance.to_str().unwrap().to_owned());
        let document: serde_json::Value = document.json().await.unwrap();
        if document["status"] == "Succeeded" {
            assert!(document["progress"].as_f64().unwrap() > 50.0);
            break;
        }
        assert_eq!(document["status"], "Running");
        tokio::task::yield_now().await;
    }
    assert_eq!(instances.len(), 2, "{instances:?}");
    let report = example.get(&format!("{path}/result")).await;
    assert!(
        report.starts_with("20 pages for visitor, by worker-"),
        "{report}"
    );
    assert!(report.ends_with("in attempt 1\n"), "{report}");

    // The one rings at an instance until the other has heard it, wherever that is.
    let ring = async {
        loop {
            assert_eq!(example.post("/ring", "").await.0, 200);
        }
    };
    let heard = tokio::select! {
        heard = example.get("/wait") => heard,
        () = ring => unreachable!(),
    };
    assert!(heard.contains("has heard it"), "{heard}");

    // An instance answers what it has begun before it ends, also the order to do so.
    for (name, process) in ["web-1", "web-2"].into_iter().zip(&processes) {
        let order = format!("/control?member={name}&how=restart");
        assert_eq!(example.post(&order, "").await.0, 200);
        complete(&example, Some(process)).await;
    }

    // One that is killed comes back.
    let order = "/control?member=worker-1&how=kill";
    assert_eq!(example.post(order, "").await.0, 200);
    complete(&example, Some(&processes[2])).await;

    // What was submitted at either instance is listed, and what has become of it.
    let order = "/control?member=worker-2&how=kill";
    let (submitted, killed) = tokio::join!(
        example.post("/burst?count=300", ""),
        example.post(order, "")
    );
    assert_eq!((submitted.0, killed.0), (200, 200));
    let all = async {
        loop {
            let page = example.get("/").await;
            let row = page.split("<tr><td>1<td>square<td>").nth(1).unwrap();
            if row.starts_with("300 succeeded, ") {
                return row.lines().next().unwrap().to_owned();
            }
            tokio::task::yield_now().await;
        }
    };
    let row = tokio::time::timeout(Duration::from_secs(60), all).await;
    let row = row.expect("all have ended");
    let attempts = row.split(", ").nth(1).unwrap().split(' ').next();
    assert!(attempts.unwrap().parse::<u32>().unwrap() >= 300, "{row}");

    let (status, text) = example.post("/control?member=worker-3&how=kill", "").await;
    assert_eq!((status, &*text), (404, "there is no worker-3\n"));
}

/// The processes that have this on their command line or in their environment.
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

/// All that a cluster makes: its processes and files know of this directory.
#[cfg(target_os = "linux")]
async fn assert_nothing_is_left(directory: &Path) {
    let name = directory.to_str().unwrap();
    until(|| processes_with(name).is_empty()).await;
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
        let mut example = Example::start_with("cluster", &environment);
        assert_eq!(example.post("/burst?count=100", "").await.0, 200);
        // The supervisor, two for a server, two instances, two workers and the proxy.
        assert_eq!(processes_with(name).len(), processes);
        let id = example.process.id().to_string();
        let signal_option = format!("-{signal}");
        let sent = Command::new("kill").args([&signal_option, &id]).status();
        assert!(sent.unwrap().success());
        let ended = example.process.wait().unwrap();
        assert_eq!(ended.success(), signal != "KILL", "{ended}");
        assert_nothing_is_left(directory.path()).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_cluster_that_cannot_start_says_why_and_leaves_nothing_behind() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", nobody.local_addr().unwrap());
    drop(nobody);
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
            "sqlite:/nowhere/cluster.db",
            "/nowhere/cluster.db",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let ended = Command::new(binary("cluster"))
            .env("ADDR", "127.0.0.1:0")
            .env("TMPDIR", directory.path())
            .env(variable, value)
            .output()
            .unwrap();
        assert!(!ended.status.success());
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(text.contains(reason), "{text}");
        assert!(!text.contains("Error"), "{text}");
        assert_nothing_is_left(directory.path()).await;
    }
}
