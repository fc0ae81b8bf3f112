//! A product page that begins when the product is known. Its slow parts follow in the same response, without a script.
//!
//! Start it with `cargo run -p example-streaming`.

mod components;
mod session;
mod shop;
mod templates;
mod upstreams;

use axum::extract::{Path, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::from_fn;
use axum::response::{Html, IntoResponse, Redirect};
use axum::routing::get;
use axum::{Extension, Router};
use components::Page;
use session::{Visits, session};
use shop::Shop;
use std::time::Duration;
use templates::Templates;
use tower::ServiceBuilder;
use tower_http::compression::CompressionLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;
use tower_promises::fragment::{FragmentError, FragmentLayer, SCRIPT};
use tower_promises::{BoxError, PromiseLayer, Promises};

#[derive(Clone)]
struct App {
    shop: Shop,
    templates: Templates,
}

/// The page in minijinja.
async fn in_templates(
    State(app): State<App>,
    Path(id): Path<String>,
    Extension(Visits(visits)): Extension<Visits>,
    promises: Promises,
) -> Result<(StatusCode, Html<String>), StatusCode> {
    // Outside of fragments, because the status depends on it.
    let product = app.shop.product(&promises, &id);
    let page = match product.map_err(|error| error.status())? {
        Some(product) => (StatusCode::OK, app.templates.product(&id, &product, visits)),
        None => (StatusCode::NOT_FOUND, app.templates.missing(visits)),
    };
    match page {
        (status, Ok(page)) => Ok((status, Html(page))),
        (_, Err(error)) => {
            tracing::error!("{error:#}");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// The page in maud.
async fn in_components(
    State(app): State<App>,
    Path(id): Path<String>,
    Extension(Visits(visits)): Extension<Visits>,
    promises: Promises,
) -> Result<impl IntoResponse, StatusCode> {
    let product = app.shop.product(&promises, &id);
    let (status, page) = match product.map_err(|error| error.status())? {
        Some(product) => {
            let page = Page { shop: app.shop, id };
            (StatusCode::OK, page.product(&promises, &product, visits))
        }
        None => (StatusCode::NOT_FOUND, components::missing(visits)),
    };
    Ok((status, Html(page.into_string())))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| "info,tower_http=debug".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();

    let shop = Shop::start().await?;
    let templates = Templates::new(shop.clone());
    let fragments = FragmentLayer::new()
        .promises(PromiseLayer::new().promise_timeout(Duration::from_millis(3500)))
        .stream_when(|request: &Parts| request.uri.query() != Some("whole"))
        .on_error(|_: &FragmentError| {
            "<span class=\"note\">not available at the moment</span>".into()
        })
        .script("/fragments.js");
    let policy = HeaderValue::from_static("default-src 'self'");
    let pages = Router::new()
        .route("/{product}", get(in_templates))
        .route("/maud/{product}", get(in_components))
        .layer(
            ServiceBuilder::new()
                .layer(TraceLayer::new_for_http())
                .layer(CompressionLayer::new())
                .layer(SetResponseHeaderLayer::overriding(
                    CONTENT_SECURITY_POLICY,
                    policy,
                ))
                .layer(from_fn(session))
                .layer(fragments),
        )
        .with_state(App { shop, templates });
    let file = |kind: &'static str, text: &'static str| get(([(CONTENT_TYPE, kind)], text));
    let app = pages
        .route("/", get(Redirect::to("/tea")))
        .route("/favicon.ico", get(StatusCode::NO_CONTENT))
        .route(
            "/style.css",
            file("text/css", include_str!("../templates/style.css")),
        )
        // For browsers that do not replace fragments themselves.
        .route("/fragments.js", file("text/javascript", SCRIPT));

    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}, try it in a browser, or");
    println!("  curl -N -H 'accept: text/html' http://{address}/tea");
    println!(
        "  curl 'http://{address}/tea'       # a client that does not ask for text/html gets the whole page"
    );
    println!(
        "  curl -i 'http://{address}/gold'   # 404: the status is decided before the page begins"
    );
    axum::serve(listener, app).await?;
    Ok(())
}
