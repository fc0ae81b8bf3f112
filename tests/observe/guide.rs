//! The guide to observability lists exactly the spans, events and metrics of the code.

use http::HeaderValue;
use http::header::{ACCEPT, CONTENT_TYPE};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};
use std::time::Duration;
use test_support::described::documented;
use test_support::recorded::{families, is_of_promises};
use test_support::{TestRequest, ask, get, promises, text, text_response};
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::fragment::FragmentLayer;
use tower_promises::{BoxError, PromiseLayer};

/// A span or an event: its level, target and fields, and its name or message.
type Row = [String; 4];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns the source folders of all packages.
fn sources() -> Vec<PathBuf> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let packages = read_dir(packages).unwrap();
    let sources = packages.map(|package| package.unwrap().path().join("src"));
    sources.chain([source()]).collect()
}

/// Returns the contents of all source files.
fn files(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension() {
            None => files.extend(files_of(&path)),
            Some(extension) if extension == "rs" => files.push(read_to_string(&path).unwrap()),
            Some(_) => {}
        }
    }
    files
}

fn files_of(path: &Path) -> Vec<String> {
    match path.is_dir() {
        true => files(path),
        false => Vec::new(),
    }
}

/// Splits the arguments of a macro. `text` starts after the opening parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut in_string) = (vec![String::new()], 1, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let argument = arguments.last_mut().unwrap();
        match character {
            '\\' if in_string => {
                argument.push(character);
                argument.extend(characters.next());
                continue;
            }
            '"' => in_string = !in_string,
            _ if in_string => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 1 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        argument.push(character);
    }
    let arguments = arguments.iter().map(|it| uncommented(it));
    arguments.filter(|argument| !argument.is_empty()).collect()
}

fn uncommented(argument: &str) -> String {
    let lines = argument.lines().map(str::trim);
    let lines: Vec<_> = lines.filter(|line| !line.starts_with("//")).collect();
    lines.join("\n").trim().to_owned()
}

/// Parses a call of a macro of `tracing` or `log`, or of `event!` in the task module, which adds the fields of a task.
fn row(name: &str, mut arguments: Vec<String>) -> Row {
    let mut level = name.to_owned();
    let mut target = "tower_promises".to_owned();
    let (mut fields, mut message) = (Vec::new(), String::new());
    if let Some(given) = arguments[0].strip_prefix("target: ") {
        // The only other target is a constant with the name of the crate.
        if given.starts_with('"') {
            target = given.trim_matches('"').to_owned();
        }
        arguments.remove(0);
    }
    if name == "event" {
        level = arguments.remove(0);
        if arguments[0] == "letter" {
            arguments.remove(0);
            fields.extend(["queue", "task", "id"].map(str::to_owned));
        }
    }
    for argument in arguments {
        if argument.starts_with('"') {
            let text = argument.trim_matches('"').replace("\\\n", "");
            message = text;
        } else if !argument.starts_with("parent: ") {
            let field = argument.split(" =").next().unwrap();
            fields.push(field.trim_start_matches(['?', '%']).to_owned());
        }
    }
    if message == "{self}" {
        message =
            "the text of `MissingPromiseLayer`, `MissingOperationLayer` or `MissingTaskLayer`"
                .into();
    }
    let level = match level.trim_end_matches("_span") {
        "warning" => "WARN".to_owned(),
        level => level.to_uppercase(),
    };
    [level, target, fields.join(", "), message]
}

/// Returns the events and the spans of the code.
fn in_the_code() -> (BTreeSet<Row>, BTreeSet<Row>) {
    let (mut events, mut spans) = (BTreeSet::new(), BTreeSet::new());
    for text in sources().iter().flat_map(|folder| files(folder)) {
        for name in [
            "error",
            "warning",
            "info",
            "debug",
            "event",
            "error_span",
            "warn_span",
            "info_span",
            "debug_span",
            "trace_span",
        ] {
            for (place, found) in text.match_indices(&format!("{name}!(")) {
                let line = text[..place].rsplit('\n').next().unwrap();
                let is_other = line.ends_with(|last: char| last.is_alphanumeric() || last == '_');
                if is_other || line.contains("//") || line.contains("macro_rules!") {
                    continue;
                }
                let row = row(name, arguments(&text[place + found.len()..]));
                // Skips macros that expand to other macros.
                if row.iter().any(|cell| cell.contains('$')) {
                    continue;
                }
                match name.ends_with("_span") {
                    true => spans.insert(row),
                    false => events.insert(row),
                };
            }
        }
    }
    (events, spans)
}

/// Returns the cells of the tables below a heading.
fn table<'a>(guide: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, part) = guide.split_once(&format!("\n# {heading}\n")).unwrap();
    let part = part.split("\n# ").next().unwrap();
    let rows = part
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").map(str::trim).collect::<Vec<_>>());
    cells
        .filter(|cells| !["level", "name", "span"].contains(&cells[0]))
        .collect()
}

fn plain(cell: &str) -> String {
    cell.replace('`', "")
}

#[test]
fn the_guide_has_all_spans_and_events_with_their_levels_targets_and_fields() {
    let guide = read_to_string(source().join("observe/guide.md")).unwrap();
    let (events, spans) = in_the_code();
    assert!(
        events.len() > 50 && spans.len() == 6,
        "{events:#?} {spans:#?}"
    );

    let rows = table(&guide, "All spans");
    let told: BTreeSet<Row> = rows
        .iter()
        .map(|cells| {
            [
                plain(cells[1]),
                plain(cells[2]),
                plain(cells[3]),
                plain(cells[0]),
            ]
        })
        .collect();
    assert_eq!(told, spans);

    let rows = table(&guide, "All events");
    let told: BTreeSet<Row> = rows
        .iter()
        .map(|cells| {
            [
                plain(cells[0]),
                plain(cells[1]),
                plain(cells[2]),
                cells[3].to_owned(),
            ]
        })
        .collect();
    let missing: Vec<_> = events.difference(&told).collect();
    let wrong: Vec<_> = told.difference(&events).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "missing: {missing:#?} wrong: {wrong:#?}"
    );
    assert_eq!(rows.len(), told.len(), "none is there twice");
}

/// Sends a page whose fragment follows.
async fn stream_page() {
    let service = FragmentLayer::new().grace(Duration::ZERO).layer(service_fn(
        async |request: TestRequest| {
            let fragment = promises(&request).fragment("slow", "", |promises| {
                promises.result_or_submit("slow", async || {
                    tokio::task::yield_now().await;
                    String::new()
                })
            });
            let mut page = text_response(fragment.to_string());
            let html = HeaderValue::from_static("text/html");
            page.headers_mut().insert(CONTENT_TYPE, html);
            Ok::<_, BoxError>(page)
        },
    ));
    let mut request = get("/");
    let html = HeaderValue::from_static("text/html");
    request.headers_mut().insert(ACCEPT, html);
    let response = service.oneshot(request).await.unwrap();
    assert!(text(response.into_body()).await.contains("<template"));
}

#[test]
fn the_documentation_has_all_metrics_with_their_kinds_and_labels() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        tower_promises::observe::metrics::describe();
        let request = ask(PromiseLayer::new(), |promises| {
            promises.result_or_submit("a", async || ())?;
            Ok(String::new())
        });
        runtime.block_on(request).unwrap();
        runtime.block_on(stream_page());
    });
    let text = recorder.handle().render();
    let families: BTreeMap<_, _> = families(&text).into_iter().collect();
    let told = documented(&read_to_string(source().join("metrics.rs")).unwrap());
    let names = families.keys().filter(|name| is_of_promises(name));
    assert!(names.eq(told.keys()), "{families:#?}");
    for (name, row) in told {
        let (kind, labels) = &families[&name];
        assert_eq!((kind, labels), (&row.kind, &row.labels), "{name}");
        if name.ends_with("_total") {
            let start = format!("{name}{{{}=\"", labels[0]);
            let values = text.lines().filter_map(|line| line.strip_prefix(&start));
            let values = values.map(|rest| rest.split('"').next().unwrap().to_owned());
            assert_eq!(row.values, values.collect(), "{name}");
        }
    }
}

#[test]
fn the_guide_repeats_the_tables_of_all_packages() {
    let guide = read_to_string(source().join("observe/guide.md")).unwrap();
    let told: Vec<_> = table(&guide, "All metrics");
    let told: BTreeSet<_> = told.iter().map(|cells| cells.join(" | ")).collect();
    let texts = sources().into_iter().filter_map(|folder| {
        let path = folder.join("metrics.rs");
        path.exists().then(|| read_to_string(path).unwrap())
    });
    let rows = texts.flat_map(|text| {
        let rows = text.lines().filter_map(|line| line.strip_prefix("//! | `"));
        let rows = rows.filter(|row| row.starts_with("tower_promises_"));
        let row = |row: &str| format!("`{}", row.trim_end_matches(" |"));
        rows.map(row).collect::<Vec<_>>()
    });
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() > 50, "{rows:#?}");
    let code: BTreeSet<_> = rows.into_iter().collect();
    let missing: Vec<_> = code.difference(&told).collect();
    let wrong: Vec<_> = told.difference(&code).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "missing: {missing:#?} wrong: {wrong:#?}"
    );
}
