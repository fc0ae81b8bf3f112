//! The example `observability`: its spans, its metrics, and the timings of its page.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::path::Path;
use test_support::example::{Example, eventually, until};
use test_support::recorded::families;

/// A span as exported by OpenTelemetry.
#[derive(Debug, Default)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
    attributes: Vec<String>,
}

impl Span {
    /// Returns the complete spans in the output of the exporter.
    fn all(output: &str) -> Vec<Self> {
        let blocks = output.split("Span #").skip(1);
        blocks.map(Self::parse).collect()
    }

    fn parse(block: &str) -> Self {
        let mut span = Self::default();
        // The attributes of events do not belong to the span.
        let block = block.split("\tEvents:").next().unwrap();
        for line in block.lines() {
            // The name of the instrumentation scope has a deeper indentation.
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

    /// Returns the text of an attribute, or its number.
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

/// Asserts that these spans are the trace of a request of the page.
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

    // The task belongs to the request, also if another process runs it.
    let tasks = named("invoice");
    assert_eq!(tasks.len(), 1, "{spans:#?}");
    assert_eq!(tasks[0].parent, requests[0].id);

    // The spans inside of promises and tasks are their children.
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

/// Returns the traces in this output, each with all of its spans.
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
    let example = Example::start_with(
        env!("CARGO_BIN_EXE_observability"),
        &[("RUST_LOG", "error")],
    );
    let response = example.client.get(&example.url).send().await.unwrap();
    assert_eq!(response.status(), 200);

    let timing = response.headers()["server-timing"].to_str().unwrap();
    let names: Vec<_> = timing
        .split(", ")
        .map(|entry| entry.split(';').next().unwrap())
        .collect();
    assert_eq!(names[..3], ["pass-1", "pass-2", "pass-3"]);
    // The promises of the first pass are in the order in which they settled.
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

    // The span of a request ends last, and is exported with the next batch.
    until("the first batch of spans", async || {
        !traces(&Span::all(&example.output())).is_empty()
    })
    .await;
    example.get("/").await;
    // The last batch is exported before the process ends.
    let output = example.interrupt().await;
    let spans = Span::all(&output);
    let traces = traces(&spans);
    assert_eq!(traces.len(), 2, "{output}");
    for trace in traces {
        assert_is_trace_of_the_page(&trace);
    }
}

#[tokio::test]
async fn input_of_a_client_is_escaped() {
    let example = Example::start_with(
        env!("CARGO_BIN_EXE_observability"),
        &[("RUST_LOG", "error")],
    );
    let page = example.get("/?user=%3Cb%3EA%26B").await;
    assert!(page.contains("an invoice for &lt;b>A&amp;B,"), "{page}");
}

/// Sends a POST request without a body, and returns the address of its operation.
async fn begin(example: &Example, path: &str) -> String {
    let request = example.client.post(format!("{}{path}", example.url));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 202);
    let address = &response.headers()["operation-location"];
    address.to_str().unwrap().to_owned()
}

async fn until_succeeded(example: &Example, address: &str) {
    until("the operation has succeeded", async || {
        let document = example.get(address).await;
        assert!(!document.contains("Failed"), "{document}");
        document.contains("Succeeded")
    })
    .await;
}

/// Uses all of the example once, and returns what Prometheus collects then.
async fn scrape(example: &Example) -> String {
    example.get("/").await;
    let report = begin(example, "/report").await;
    eventually("the report waits", async || {
        let request = example.client.post(format!("{}/approve", example.url));
        let approved = request.body("Ada").send().await.unwrap();
        let approved = approved.text().await.unwrap();
        (approved == "approved 1 reports").then_some(())
    })
    .await;
    until_succeeded(example, &report).await;
    let order = begin(example, "/order").await;
    until_succeeded(example, &order).await;
    eventually("the run of the order has ended", async || {
        let text = example.get("/metrics").await;
        let ended = "tower_promises_durable_runs_total{outcome=\"ended\"} 1";
        text.contains(ended).then_some(text)
    })
    .await
}

/// Returns the rows of the tables of the guide that follow a heading, without their first rows.
fn rows<'a>(guide: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, part) = guide.split_once(&format!("\n# {heading}\n")).unwrap();
    let part = part.split("\n# ").next().unwrap();
    let rows = part
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(|row| !["name", "question", "alert"].contains(&row[0]))
        .collect()
}

fn guide() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    read_to_string(root.join("src/observe/guide.md")).unwrap()
}

/// A part of an expression that selects series: their name, and conditions on their labels.
#[derive(Debug)]
struct Selector<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
}

impl<'a> Selector<'a> {
    fn all(expression: &'a str) -> Vec<Self> {
        let starts = expression.match_indices("tower_promises_");
        starts
            .map(|(start, _)| Self::parse(&expression[start..]))
            .collect()
    }

    fn parse(text: &'a str) -> Self {
        let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
        let end = text.find(|it| !is_part(it)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let conditions = rest.strip_prefix('{').and_then(|it| it.split('}').next());
        let conditions = conditions.unwrap_or_default().split(',');
        let labels = conditions.filter_map(|condition| {
            let (label, value) = condition.split_once('=')?;
            Some((label.trim_end_matches('!'), value.trim_matches('"')))
        });
        Self {
            name,
            labels: labels.collect(),
        }
    }

    /// Whether a line of the text for Prometheus is a series of this name.
    fn is_of(&self, line: &str) -> bool {
        let rest = line.strip_prefix(self.name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    }
}

/// Returns the labels by which an expression groups.
fn grouped(expression: &str) -> BTreeSet<&str> {
    let groups = expression.split("by (").skip(1);
    let labels = groups.flat_map(|group| group.split(')').next().unwrap().split(", "));
    labels.collect()
}

#[tokio::test]
async fn a_scrape_has_all_metrics_of_the_guide() {
    let example = Example::start_with(
        env!("CARGO_BIN_EXE_observability"),
        &[("RUST_LOG", "error")],
    );
    let text = scrape(&example).await;
    let guide = guide();

    // What the example does not use.
    let unused = [
        "tower_promises_fragment_duration_seconds",
        "tower_promises_page_duration_seconds",
        "tower_promises_shell_duration_seconds",
        "tower_promises_webhook_duration_seconds",
    ];
    let mut wanted = BTreeMap::new();
    for row in rows(&guide, "All metrics") {
        let name = row[0].trim_matches('`');
        if !unused.contains(&name) {
            let labels = row[2].split(", ").map(|label| label.trim_matches('`'));
            let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
            let family = (row[1].to_owned(), labels.collect());
            wanted.insert(name.to_owned(), family);
        }
    }
    let mut found = families(&text);
    found.retain(|name, _| name.starts_with("tower_promises_"));
    assert_eq!(found, wanted);

    for series in [
        "tasks_submitted_total{queue=\"office\",task=\"invoice\"} 1",
        "tasks_total{queue=\"office\",task=\"invoice\",outcome=\"succeeded\"} 1",
        "task_wait_duration_seconds_bucket{queue=\"office\",task=\"invoice\",le=\"+Inf\"} 1",
        "task_dead_letters_total{queue=\"office\",change=\"added\"} 0",
        "tasks_in_flight{queue=\"office\",task=\"invoice\"} 0",
        "operation_replies_total{reply=\"accepted\"} 2",
        "operations_total{outcome=\"succeeded\"} 2",
        "operations_in_flight 0",
        "operation_requests_in_flight 0",
        "durable_runs_total{outcome=\"suspended\"} 1",
        "durable_runs_started_total{reason=\"due\"} 1",
        "signal_waits_total{outcome=\"received\"} 1",
        "signal_waits_in_flight 0",
        "worker_errors_total{call=\"take\"} 0",
    ] {
        let series = format!("tower_promises_{series}");
        assert!(text.lines().any(|line| line == series), "{series}: {text}");
    }
}

#[tokio::test]
async fn the_expressions_of_the_guide_use_series_that_a_scrape_has() {
    let example = Example::start_with(
        env!("CARGO_BIN_EXE_observability"),
        &[("RUST_LOG", "error")],
    );
    let text = scrape(&example).await;
    let guide = guide();
    let rows = rows(&guide, "Questions and alerts");
    assert!(rows.len() > 30, "{rows:#?}");
    for row in rows {
        let expression = row[1].trim_matches('`');
        let selectors = Selector::all(expression);
        assert!(!selectors.is_empty(), "{expression}");
        for selector in selectors {
            let lines = text.lines().filter(|line| selector.is_of(line));
            let lines: Vec<_> = lines.collect();
            assert!(!lines.is_empty(), "{selector:?} selects nothing: {text}");
            for (label, value) in &selector.labels {
                let label = format!("{label}=\"{value}\"");
                let has = |line: &&str| line.contains(&label);
                assert!(lines.iter().any(has), "{label}: {lines:#?}");
            }
            for label in grouped(expression) {
                let label = format!("{label}=\"");
                let has = |line: &&str| line.contains(&label);
                assert!(lines.iter().any(has), "by {label}: {lines:#?}");
            }
        }
    }
}
