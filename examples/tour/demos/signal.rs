//! A request waits for something that another request says.

use super::Result;
use crate::stage::{Stage, page};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use axum::{Form, Router};
use futures_util::FutureExt;
use serde::Deserialize;
use std::time::Duration;
use tower_promises::backend::Backend;
use tower_promises::signals::Signals;
use tower_promises::{BoxError, PromiseLayer, Promises};

// tour: begin
/// This request waits for the next greeting.
async fn wait(promises: Promises, signals: State<Signals>) -> Result<Html<String>> {
    let said = promises.result_or_submit("greeting", || {
        let greeting = signals.wait::<String>("greeting");
        greeting.timeout(Duration::from_secs(20)).map(Result::ok)
    })?;
    let said = said.unwrap_or_else(|| "No greeting came".into());
    Ok(Html(format!("<h1>{}</h1>", escaped(&said))))
}

/// This request says it, in the same process or in another.
async fn say(
    State(signals): State<Signals>,
    Form(greeting): Form<Greeting>,
) -> Result<Html<String>, StatusCode> {
    let heard = signals.send("greeting", &greeting.text).await;
    let heard = heard.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(page(&format!("<p>Heard by {heard}.</p> {SAY}")))
}
// tour: end

#[derive(Deserialize)]
struct Greeting {
    text: String,
}

const SAY: &str = r#"<form method="post" action="/signal/say">
<label>Say <input name="text" value="Good morning!" maxlength="80" required></label>
<button>Say it</button>
</form>"#;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const WAIT: &str = r#"<form action="/signal/wait">
<p>This page waits for the greeting, at most 20 seconds.</p>
<button>Wait for a greeting</button>
</form>"#;

pub(super) fn router(stage: &Stage) -> Result<Router, BoxError> {
    let signals = Signals::builder(Backend::memory()).max_waiters(16).build();
    let wait = Router::new().route("/signal/wait", get(wait));
    let wait = stage.around(wait.layer(PromiseLayer::new()).with_state(signals.clone()));
    let say = get(async || page(SAY)).post(say).with_state(signals);
    let pages = wait.route("/signal", get(async || page(WAIT)));
    Ok(pages.route("/signal/say", say))
}
