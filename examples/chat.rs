//! A chat without a socket: a page waits for the next message and is then rendered, by a template that cannot wait.
//!
//! Start it with `cargo run --example chat`.

use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Form, Router};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tower_promises::signals::{SignalError, Signals};
use tower_promises::{PromiseError, PromiseLayer, Promises};

const DEFAULT_SECONDS: u64 = 30;
const MAX_SECONDS: u64 = 120;
const MAX_MESSAGE_BYTES: usize = 4096;

const ROOM: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>{{ room }}</title>
<h1>{{ room }}</h1>
{% set message = next_message(room, seconds) %}
{% if message is none %}<p>no message arrived</p>{% else %}<p>a client says: <q>{{ message }}</q></p>{% endif %}
<p><a href="?seconds={{ seconds }}">wait for the next message</a> (until then, this page loads)</p>
<form method="post"><input name="text" autofocus required maxlength="300"> <button>say it</button></form>
"#;

const SAID: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>{{ room }}</title>
<p>heard by {{ heard }}</p>
<p><a href="">wait for an answer</a> (until then, that page loads)</p>
<form method="post"><input name="text" autofocus required maxlength="300"> <button>say more</button></form>
"#;

const HOME: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>Chat</title>
<h1>Chat</h1>
<p>Open <a href="/rooms/lobby" target="_blank">the lobby</a> in one tab, which waits for a message, and</p>
<form method="post" action="/rooms/lobby" target="_blank">
  say <input name="text" required maxlength="300"> in another <button>say it</button>
</form>
"#;

#[derive(Clone)]
struct Chat {
    /// In a namespace, because other parts of a server may use signals with the same names.
    rooms: Signals,
    templates: Arc<Environment<'static>>,
}

impl Chat {
    fn new(signals: &Signals) -> Result<Self, minijinja::Error> {
        let rooms = signals.namespace("rooms");
        let mut templates = Environment::new();
        // Templates with the extension `.html` escape their values.
        templates.add_template("room.html", ROOM)?;
        templates.add_template("said.html", SAID)?;
        let signals = rooms.clone();
        templates.add_function("next_message", move |room: &str, seconds: u64| {
            next_message(&signals, room, seconds)
        });
        let templates = Arc::new(templates);
        Ok(Self { rooms, templates })
    }

    fn render(&self, template: &str, context: Value) -> Result<Html<String>, StatusCode> {
        let template = self.templates.get_template(template);
        let page = template.and_then(|template| template.render(context));
        page.map(Html).map_err(|error| {
            // Not logged for a pass that is discarded: its template fails because the message is still pending.
            if !Promises::current().is_some_and(|promises| promises.will_discard()) {
                eprintln!("{error:#}");
            }
            StatusCode::INTERNAL_SERVER_ERROR
        })
    }
}

/// The function that the template calls. Returns `None` if no message arrived in time.
fn next_message(
    rooms: &Signals,
    room: &str,
    seconds: u64,
) -> Result<Option<String>, minijinja::Error> {
    let failed = |error| minijinja::Error::from(ErrorKind::InvalidOperation).with_source(error);
    let promises = Promises::current().ok_or(ErrorKind::InvalidOperation)?;
    let message = promises.result_or_try_submit("message", || {
        rooms
            .wait::<String>(room)
            .timeout(Duration::from_secs(seconds))
    });
    match message {
        Ok(message) => Ok(Some(message)),
        Err(PromiseError::Failed { error, .. })
            if matches!(error.downcast_ref(), Some(SignalError::TimedOut { .. })) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(error)),
    }
}

#[derive(Deserialize)]
struct Waiting {
    seconds: Option<u64>,
}

async fn room(
    State(chat): State<Chat>,
    Path(room): Path<String>,
    Query(waiting): Query<Waiting>,
) -> Result<Html<String>, StatusCode> {
    let seconds = waiting.seconds.unwrap_or(DEFAULT_SECONDS).min(MAX_SECONDS);
    chat.render("room.html", context! { room, seconds })
}

#[derive(Deserialize)]
struct Said {
    text: String,
}

async fn say(
    State(chat): State<Chat>,
    Path(room): Path<String>,
    request: Request,
) -> Result<Html<String>, Response> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_form = content_type.is_some_and(|content_type| {
        content_type
            .as_bytes()
            .starts_with(b"application/x-www-form-urlencoded")
    });
    let text = if is_form {
        let form = Form::<Said>::from_request(request, &()).await;
        form.map_err(IntoResponse::into_response)?.0.text
    } else {
        let text = String::from_request(request, &()).await;
        text.map_err(IntoResponse::into_response)?
    };
    let heard = chat.rooms.send(&room, &text).await.map_err(|error| {
        eprintln!("{error}");
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    })?;
    let page = chat.render("said.html", context! { room, heard });
    page.map_err(IntoResponse::into_response)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chat = Chat::new(&Signals::memory())?;
    let app = Router::new()
        // Sending does not wait, so only the reading handler has the layer.
        .route(
            "/rooms/{room}",
            get(room).layer(PromiseLayer::new()).post(say),
        )
        .route("/", get(async || Html(HOME)))
        .layer(DefaultBodyLimit::max(MAX_MESSAGE_BYTES))
        .with_state(chat);

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try it in a browser, or");
    println!(
        "  curl http://{address}/rooms/lobby                     # waits for the next message"
    );
    println!("  curl -d text=hello http://{address}/rooms/lobby       # in another terminal");
    println!("  curl http://{address}/rooms/lobby?seconds=1           # no message arrives");
    axum::serve(listener, app).await?;
    Ok(())
}
