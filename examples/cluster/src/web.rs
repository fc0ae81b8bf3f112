//! An instance of the web service. It keeps no state, so any other instance can answer the next request.

use crate::control::{How, signal};
use crate::jobs::{Poison, QUEUE, Report, Square, WEBHOOKS, Worker, tasks};
use crate::partner::{self, Synchronise};
use crate::submitted::{AT_A_TIME, Batch};
use crate::{Member, PRESENCE, parent_gone};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use bytes::Bytes;
use futures_util::future::try_join_all;
use minijinja::{Environment, context};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tower_promises::backend::Backend;
use tower_promises::operations::Escalate;
use tower_promises::operations::{OperationLayer, Operations, Progress};
use tower_promises::signals::Signals;
use tower_promises::tasks::Tasks;
use tower_promises::tasks::{Principal, Task, TaskLayer, TasksPage, Webhook};
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

pub(crate) const MEMBERS: [&str; 4] = ["web-1", "web-2", "worker-1", "worker-2"];
pub(crate) const WEB: [&str; 2] = ["web-1", "web-2"];

/// The principal of all requests. A real service derives it from its authentication.
const VISITOR: &str = "visitor";

/// The signal that requests for `/wait` wait for.
const BELL: &str = "bell";

#[derive(Clone)]
struct Web {
    name: Arc<str>,
    /// The address of this instance.
    address: Arc<str>,
    backend: Backend,
    signals: Signals,
}

/// An error that is shown to the client, as suits an example.
struct Failed(BoxError);

impl<E: Into<BoxError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.0)).into_response()
    }
}

/// Redirects a browser to the status page, with a text for command-line clients.
fn home(done: &str) -> Response {
    let location = [(header::LOCATION, "/")];
    (StatusCode::SEE_OTHER, location, format!("{done}\n")).into_response()
}

/// Shows the state of the cluster. All instances show the same.
async fn status(
    web: State<Web>,
    operations: Operations,
    tasks: Tasks,
) -> Result<Html<String>, Failed> {
    let mut members = Vec::new();
    for name in MEMBERS {
        let found = web.backend.store().get(&Member::key(name)).await?;
        let member = found.map(|entry| serde_json::from_slice::<Member>(&entry.value));
        members.push(match member.transpose()? {
            Some(member) => context!(name, process => member.process, doing => member.doing),
            None => {
                context!(name, doing => format!("not heard of for {} seconds", PRESENCE.as_secs()))
            }
        });
    }
    let operations = operations.list(VISITOR).await?;
    let operations = operations.iter().map(|operation| {
        context! {
            id => operation.id(),
            status => operation.status().to_string(),
            code => operation.error_code(),
            progress => operation.progress(),
            message => operation.message(),
        }
    });
    let mut batches = Vec::new();
    let store = web.backend.store();
    for batch in Batch::all(store).await? {
        let progress = batch.progress(store, &tasks).await?;
        batches.push(context!(number => batch.number, task => batch.task, progress));
    }
    let dead = tasks.queue(QUEUE).dead_letters().await?;
    let dead = dead.iter().map(|task| {
        context! {
            id => task.id().as_str(),
            task => task.task(),
            attempts => task.attempt(),
            error => task.error(),
        }
    });
    let mut templates = Environment::new();
    templates.add_template("status.html", include_str!("status.html"))?;
    let page = templates.get_template("status.html")?.render(context! {
        instance => &*web.name,
        members,
        operations => operations.collect::<Vec<_>>(),
        batches,
        dead => dead.collect::<Vec<_>>(),
        is_away => partner::is_away(store).await?,
        told => partner::told(store).await?,
        waiting => web.signals.waiters(BELL),
    })?;
    Ok(Html(page))
}

#[derive(Deserialize)]
struct ReportQuery {
    #[serde(default = "ten")]
    seconds: u32,
}

fn ten() -> u32 {
    10
}

/// A handler that cannot wait, for a report from another process. A slow request becomes an operation with the progress
/// of the task. Cancelling the operation cancels the task.
async fn report(
    Query(query): Query<ReportQuery>,
    promises: Promises,
    progress: Progress,
    tasks: Tasks,
) -> Result<String, PromiseError> {
    promises.result_or_try_submit("report", || {
        let report = Report {
            seconds: query.seconds.min(600),
        };
        tasks.queue(QUEUE).call(report).report_to(progress)
    })
}

#[derive(Deserialize)]
struct BurstQuery {
    #[serde(default = "ten")]
    count: u32,
}

/// Submits up to 1000 tasks, at most `AT_A_TIME` concurrently. The limit exists because the status page queries each
/// task.
async fn burst(
    web: State<Web>,
    Query(query): Query<BurstQuery>,
    tasks: Tasks,
) -> Result<Response, Failed> {
    let queue = tasks.queue(QUEUE);
    let count = query.count.min(1000);
    let batch = Batch::begin(web.backend.store(), Square::NAME, count).await?;
    let numbers: Vec<u32> = (0..count).collect();
    for some in numbers.chunks(AT_A_TIME) {
        let submits = some.iter().map(|&index| {
            let number = index.into();
            queue.submit(Square { number }).with_id(batch.id(index))
        });
        try_join_all(submits).await?;
    }
    Ok(home(&format!("submitted {count} tasks")))
}

async fn poison(web: State<Web>, tasks: Tasks) -> Result<Response, Failed> {
    let batch = Batch::begin(web.backend.store(), Poison::NAME, 1).await?;
    let queue = tasks.queue(QUEUE);
    queue.submit(Poison).with_id(batch.id(0)).await?;
    Ok(home("submitted a task that kills its worker"))
}

#[derive(Deserialize)]
struct SynchroniseQuery {
    #[serde(default = "ten")]
    account: u32,
}

/// Submits a task, and a webhook that tells the partner of its end.
async fn synchronise(
    web: State<Web>,
    Query(query): Query<SynchroniseQuery>,
    tasks: Tasks,
) -> Result<Response, Failed> {
    let account = query.account;
    let told = Webhook::on_end(format!("http://{}/told", web.address), "synchronise.ended");
    let submit = tasks.queue(QUEUE).submit(Synchronise { account });
    submit.on_end(WEBHOOKS, told).await?;
    Ok(home(&format!(
        "submitted a synchronisation of account {account}"
    )))
}

#[derive(Deserialize)]
struct PartnerQuery {
    away: bool,
}

/// Lets the partner go away, or come back.
async fn set_away(web: State<Web>, Query(query): Query<PartnerQuery>) -> Result<Response, Failed> {
    partner::set_away(web.backend.store(), query.away).await?;
    Ok(home(if query.away {
        "the partner is away"
    } else {
        "the partner is back"
    }))
}

/// Receives webhooks, as the partner.
async fn told(web: State<Web>, headers: HeaderMap, body: Bytes) -> Response {
    match partner::receive(web.backend.store(), &headers, &body).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// Waits for the bell, which may be rung on any instance.
async fn wait(web: State<Web>, promises: Promises) -> Result<String, PromiseError> {
    let rung = promises.result_or_try_submit("bell", || {
        web.signals
            .wait::<String>(BELL)
            .timeout(Duration::from_secs(60))
    });
    let by: String = rung?;
    Ok(format!("{by} has rung, {} has heard it\n", web.name))
}

async fn ring(web: State<Web>) -> Result<Response, Failed> {
    web.signals.send(BELL, &*web.name).await?;
    Ok(home("rung"))
}

#[derive(Deserialize)]
struct ControlQuery {
    member: String,
    how: How,
}

/// Sends a command for a member to the supervisor.
async fn control(web: State<Web>, Query(query): Query<ControlQuery>) -> Result<Response, Failed> {
    let ControlQuery { member, how } = query;
    if !MEMBERS.contains(&&*member) {
        let text = format!("there is no {member}\n");
        return Ok((StatusCode::NOT_FOUND, text).into_response());
    }
    web.signals.send(&signal(&member), &how).await?;
    Ok(home(&format!("{how:?} {member}")))
}

pub(crate) async fn run(name: Arc<str>, backend: Backend) -> Result<(), BoxError> {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let web = Web {
        name: name.clone(),
        address: address.to_string().into(),
        backend: backend.clone(),
        signals: Signals::new(backend.clone()),
    };
    // Starts listening now, because signals from the other instance would be lost before the first wait.
    web.signals.listen().await?;
    let operations = OperationLayer::new(backend.clone())
        .wait(Duration::from_millis(500))
        .lease(Duration::from_secs(3))
        .progress_interval(Duration::from_millis(200))
        .principal(|_| Some(VISITOR.into()))
        .escalate(|request| match request.uri.path() {
            "/report" => Escalate::Always,
            _ => Escalate::Never,
        });
    let tasks = tasks(backend.clone(), Worker::default())?;
    // A real service shows the page to its operators only, and no arguments that may be confidential.
    let page = TasksPage::new(tasks.clone(), |_| Some(Principal::new(VISITOR)))
        .title("Tasks of the cluster")
        .show_arguments(|_, json| Some(json.to_owned()))
        .show_output(|_, json| Some(json.to_owned()));
    let served_by = HeaderValue::from_str(&name)?;
    let app = Router::new()
        .route("/", get(status))
        .route("/report", get(report))
        .route("/burst", post(burst))
        .route("/poison", post(poison))
        .route("/synchronise", post(synchronise))
        .route("/partner", post(set_away))
        .route("/told", post(told))
        .route_service("/tasks", page)
        .route("/wait", get(wait))
        .route("/ring", post(ring))
        .route("/control", post(control))
        .with_state(web.clone())
        .layer(PromiseLayer::new())
        .layer(TaskLayer::new(tasks).principal(|_| Some(Principal::new(VISITOR))))
        .layer(operations.clone())
        .layer(middleware::map_response(move |mut response: Response| {
            response
                .headers_mut()
                .insert("x-served-by", served_by.clone());
            std::future::ready(response)
        }));

    println!("listening on {address}");
    let handle = operations.operations();
    let counted = handle.clone();
    let doing = move || {
        let (running, waiting) = (counted.running(), web.signals.waiters(BELL));
        format!("runs {running} operations, {waiting} wait for the bell")
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let end = async {
        parent_gone().await;
        handle.drain(Duration::from_secs(2)).await;
        drop(stop);
        // Short requests are answered in this time. Requests that wait for the bell lose their connection.
        sleep(Duration::from_secs(1)).await;
    };
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    tokio::select! {
        served = server => served?,
        () = Member::be_present(name, backend, doing) => {}
        () = end => {}
    }
    Ok(())
}
