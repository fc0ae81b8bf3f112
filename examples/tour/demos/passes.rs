//! A synchronous template requests three values by name.

use crate::stage::Stage;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use minijinja::{Environment, Error, ErrorKind, context};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tower_promises::{BoxError, OrPending, PromiseLayer, Promises};

// tour: begin
const PAGE: &str = r#"
<h1>Good morning, {{ ask("name") }}!</h1>
<p>{{ ask("mail") }} new messages, and it is {{ ask("weather") }}.</p>"#;

/// What the template calls. It is not `async`, and knows nothing of the request.
fn ask(service: &str) -> Result<&'static str, BoxError> {
    let (promises, name) = (Promises::try_current()?, service.to_owned());
    let answer = promises.result_or_submit(name.clone(), || call(name));
    Ok(answer.or_pending("")?)
}

async fn page(State(templates): Templates) -> Result<Html<String>, StatusCode> {
    let page = templates.render_str(PAGE, context! {});
    page.map(Html)
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

fn routes() -> Router<Arc<Environment<'static>>> {
    let routes = Router::new().route("/passes", get(page));
    routes.layer(PromiseLayer::new())
}
// tour: end

type Templates = State<Arc<Environment<'static>>>;

/// A slow service.
async fn call(service: String) -> &'static str {
    let (milliseconds, answer) = match service.as_str() {
        "name" => (150, "Ferris"),
        "mail" => (400, "7"),
        _ => (250, "sunny"),
    };
    sleep(Duration::from_millis(milliseconds)).await;
    answer
}

pub(super) fn router(stage: &Stage) -> Result<Router, BoxError> {
    let mut templates = Environment::new();
    templates.add_function("ask", |service: &str| {
        ask(service).map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
    });
    Ok(stage.around(routes().with_state(Arc::new(templates))))
}
