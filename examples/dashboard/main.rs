//! A page with functions in nested templates that request the answers of three upstream services. The template engine
//! cannot `await`. The page takes only as long as the slowest upstream.
//!
//! Start it with `cargo run --example dashboard`.

mod upstreams;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{Html, Response};
use axum::routing::get;
use axum::{Extension, Router};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower_promises::{PromiseError, PromiseLayer, Promises};

/// The answer of an upstream.
#[derive(Clone, Deserialize)]
struct Answer {
    text: String,
    city: String,
    ms: u64,
}

/// The upstream services.
struct Upstreams {
    client: reqwest::Client,
    urls: HashMap<&'static str, String>,
}

impl Upstreams {
    /// Requests an answer where a template uses it, without access to the request and without `await`.
    fn ask(&self, name: &str, parameters: &str) -> Result<Answer, PromiseError> {
        let promises = Promises::current().expect("PromiseLayer is around the handler");
        let url = format!("{}{parameters}", self.urls[name]);
        let client = self.client.clone();
        // Requests for the same URL share one promise, so each URL is called once.
        promises.result_or_try_submit(url.clone(), async move || {
            let response = client.get(url).send().await?.error_for_status()?;
            response.json().await
        })
    }

    fn weather(&self, mode: &str) -> Result<Answer, PromiseError> {
        match mode {
            // The second request depends on the first, which takes three passes.
            "depends" => {
                let city = self.ask("user", "")?.city;
                self.ask("weather", &format!("?city={city}"))
            }
            "fail" | "hang" => self.ask("weather", &format!("?mode={mode}")),
            _ => self.ask("weather", ""),
        }
    }
}

/// The value for the templates. The layer discards a page with pending answers.
fn view(answer: Result<Answer, PromiseError>) -> Value {
    match answer {
        Ok(answer) => context! { text => answer.text, ms => answer.ms },
        Err(PromiseError::Pending { .. }) => context! { problem => "not asked yet" },
        Err(PromiseError::TimedOut { .. }) => context! { problem => "takes too long" },
        Err(_) => context! { problem => "not available" },
    }
}

fn templates(upstreams: Upstreams) -> Result<Environment<'static>, minijinja::Error> {
    let mut templates = Environment::new();
    templates.add_template("page.html", include_str!("page.html"))?;
    templates.add_template("header.html", include_str!("header.html"))?;
    templates.add_template("cards.html", include_str!("cards.html"))?;
    templates.add_template("footer.html", include_str!("footer.html"))?;

    let upstreams = Arc::new(upstreams);
    let shared = upstreams.clone();
    templates.add_function("upstream", move |name: &str| {
        if !shared.urls.contains_key(name) {
            return Err(ErrorKind::InvalidOperation.into());
        }
        Ok::<_, minijinja::Error>(view(shared.ask(name, "")))
    });
    templates.add_function("weather", move |mode: &str| view(upstreams.weather(mode)));
    Ok(templates)
}

async fn page(
    State(templates): State<Arc<Environment<'static>>>,
    Extension(Started(started)): Extension<Started>,
    Query(query): Query<HashMap<String, String>>,
    promises: Promises,
) -> Result<Html<String>, StatusCode> {
    let context = context! {
        mode => query.get("weather").map_or("", String::as_str),
        passes => promises.pass(),
        elapsed => u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let page = templates
        .get_template("page.html")
        .and_then(|page| page.render(context));
    page.map(Html).map_err(|error| {
        eprintln!("{error:#}");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}

/// The time when the request arrived.
#[derive(Clone, Copy)]
struct Started(Instant);

/// Middleware outside `PromiseLayer`, so it runs once for a request.
async fn note_start(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Started(Instant::now()));
    next.run(request).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let urls = upstreams::start().await?.into_iter();
    let upstreams = Upstreams {
        client: reqwest::Client::new(),
        urls: urls
            .map(|(name, address)| (name, format!("http://{address}/{name}")))
            .collect(),
    };

    let app = Router::new()
        .route("/", get(page))
        .layer(PromiseLayer::new().promise_timeout(Duration::from_secs(2)))
        .layer(middleware::from_fn(note_start))
        .with_state(Arc::new(templates(upstreams)?));

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try it in a browser, or");
    println!("  curl http://{address}/");
    println!("  curl 'http://{address}/?weather=fail'      # an upstream answers with an error");
    println!("  curl 'http://{address}/?weather=hang'      # an upstream does not answer");
    println!("  curl 'http://{address}/?weather=depends'   # an upstream needs another's answer");
    axum::serve(listener, app).await?;
    Ok(())
}
