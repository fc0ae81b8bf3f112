//! Pages that stream, in real browsers: Chromium, which knows `<template for>`, without scripts, and Firefox with the
//! script of the crate. Both under a strict policy.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::{Html, Response};
use axum::routing::get;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use test_support::browser::Browser;
use test_support::firefox::Firefox;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower_promises::fragment::{FragmentLayer, SCRIPT};
use tower_promises::{PromiseError, PromiseLayer, Promises};

/// A script in the output of a fragment. It notes how many elements of the output it sees.
const OTHER_SCRIPT: &str =
    "document.body.dataset.seen = document.querySelectorAll('.scripted p').length";

/// The names of the promises that have settled.
#[derive(Clone)]
struct Released(watch::Sender<BTreeSet<&'static str>>);

impl Released {
    fn release(&self, name: &'static str) {
        self.0.send_modify(|released| {
            released.insert(name);
        });
    }

    fn release_all(&self) {
        for name in NAMES {
            self.release(name);
        }
    }

    async fn wait_for(&self, name: &str) {
        let mut released = self.0.subscribe();
        released
            .wait_for(|released| released.contains(name))
            .await
            .unwrap();
    }

    /// Renders a fragment that becomes ready when its name is released.
    fn fragment(
        &self,
        promises: &Promises,
        name: &'static str,
        fallback: &str,
        output: &str,
    ) -> String {
        let (released, output) = (self.clone(), output.to_owned());
        let render = move |promises: &Promises| {
            released.read(promises, name)?;
            Ok::<_, PromiseError>(output.clone())
        };
        promises
            .fragment(name, fallback.to_owned(), render)
            .to_string()
    }

    /// Reads a promise that settles when its name is released.
    fn read(&self, promises: &Promises, name: &'static str) -> Result<(), PromiseError> {
        let released = self.clone();
        promises.result_or_submit(name, async move || released.wait_for(name).await)
    }
}

/// A page with fragments wherever elements may be.
async fn page(State(released): State<Released>, promises: Promises) -> Html<String> {
    let fragment = |name, fallback, output| released.fragment(&promises, name, fallback, output);
    let price = fragment(
        "price",
        "<p aria-busy=\"true\">…</p>",
        "<p id=\"price\">42 €</p>",
    );
    let row = fragment(
        "row",
        "<tr><td colspan=\"2\">loading</td></tr>",
        "<tr><th>2</th><td>two</td></tr><tr><th>3</th><td>three</td></tr>",
    );
    let cell = fragment("cell", "<td>loading</td>", "<td>four</td>");
    let item = fragment("item", "<li>loading</li>", "<li>b</li><li>c</li>");
    let option = fragment(
        "option",
        "<option>loading</option>",
        "<option>green</option>",
    );
    let outer = {
        let released = released.clone();
        promises.fragment("outer", "<p>outer loading</p>", move |promises| {
            released.read(promises, "outer")?;
            let inner =
                released.fragment(promises, "inner", "<p>inner loading</p>", "<p>inner</p>");
            Ok::<_, PromiseError>(format!("<section><h2>outer</h2>{inner}</section>"))
        })
    };
    let twins = [
        fragment("twin", "1", "<b>one</b>"),
        fragment("twin", "2", "<b>two</b>"),
    ]
    .concat();
    let scripted = fragment(
        "scripted",
        "loading",
        "<p>before</p><script src=\"/other.js\"></script><p>after</p>",
    );
    Html(format!(
        "<!doctype html><html lang=\"en\"><head><title>Tea</title></head><body><main><h1>Tea</h1>\
         <input aria-label=\"note\">{price}\
         <table><tbody><tr><th>1</th><td>one</td></tr>{row}<tr><th>4</th>{cell}</tr></tbody></table>\
         <ul><li>a</li>{item}<li>d</li></ul>\
         <select aria-label=\"colour\"><option>red</option>{option}</select>\
         {outer}<p>{twins}</p><div class=\"scripted\">{scripted}</div>\
         <footer><h2>end</h2></footer></main></body></html>\n"
    ))
}

/// All names, in another order than that of the page. The page ends after the last.
const NAMES: [&str; 9] = [
    "cell", "row", "option", "item", "outer", "price", "inner", "twin", "scripted",
];

/// The text of the page when some of its fragments have come.
fn text(come: &[&str]) -> String {
    let or = |name, output, fallback| match come.contains(&name) {
        true => output,
        false => fallback,
    };
    let parts = [
        "Tea",
        or("price", "42 €", "…"),
        "1one",
        or("row", "2two3three", "loading"),
        "4",
        or("cell", "four", "loading"),
        "a",
        or("item", "bc", "loading"),
        "dred",
        or("option", "green", "loading"),
        or("outer", "outer", "outer loading"),
        or("inner", "inner", or("outer", "inner loading", "")),
        or("twin", "onetwo", "12"),
        or("scripted", "beforeafter", "loading"),
        "end",
    ];
    parts.concat()
}

/// Whether the browser has the whole page.
const IS_WHOLE: &str = "location.search === '?whole' && document.readyState === 'complete'";

async fn strictly(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let policy = "default-src 'self'".parse().unwrap();
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, policy);
    response
}

/// Serves the page, which is whole at `/?whole`.
async fn serve() -> (String, Released) {
    let released = Released(watch::Sender::default());
    let layer = FragmentLayer::new()
        .promises(PromiseLayer::new())
        .stream_when(|request: &Parts| request.uri.query() != Some("whole"))
        .script("/fragments.js");
    let script = {
        let released = released.clone();
        async move || {
            released.wait_for("script").await;
            ([("content-type", "text/javascript")], SCRIPT)
        }
    };
    let app = Router::new()
        .route("/", get(page).layer(layer))
        .route("/fragments.js", get(script))
        .route(
            "/other.js",
            get(async || ([("content-type", "text/javascript")], OTHER_SCRIPT)),
        )
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .layer(from_fn(strictly))
        .with_state(released.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (url, released)
}

/// A browser with an open page.
trait Screen {
    async fn begin(&self, url: &str);
    async fn until(&self, expression: &str);
    async fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> T;

    async fn until_text(&self, come: &[&str]) {
        let text = serde_json::to_string(&text(come)).unwrap();
        self.until(&format!(
            "document.querySelector('main')?.textContent === {text}"
        ))
        .await;
    }

    async fn main(&self) -> String {
        self.evaluate("document.querySelector('main').outerHTML")
            .await
    }

    async fn state(&self) -> String {
        self.evaluate("document.readyState").await
    }
}

macro_rules! impl_screen {
    ($($browser:ty),*) => {$(
        impl Screen for $browser {
            async fn begin(&self, url: &str) {
                Self::begin(self, url).await;
            }
            async fn until(&self, expression: &str) {
                Self::until(self, expression).await;
            }
            async fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> T {
                Self::evaluate(self, expression).await
            }
        }
    )*};
}

impl_screen!(Browser, Firefox);

/// Opens the page and lets its fragments come one by one. Each is in its place before the next is sent. In the end the
/// page is the whole page.
async fn see_fragments_come(screen: &impl Screen, url: &str, released: &Released) {
    screen.begin(url).await;
    screen.until_text(&[]).await;
    let note = "document.querySelector('input')";
    screen
        .evaluate::<bool>(&format!("({note}.focus(), true)"))
        .await;
    for come in 1..=NAMES.len() {
        assert_eq!(screen.state().await, "loading");
        released.release(NAMES[come - 1]);
        screen.until_text(&NAMES[..come]).await;
    }
    screen.until("document.readyState === 'complete'").await;
    assert!(
        screen
            .evaluate::<bool>(&format!("document.activeElement === {note}"))
            .await
    );
    let rest: String = screen
        .evaluate("document.querySelector('main').nextElementSibling.outerHTML")
        .await;
    assert_eq!(rest, "<script src=\"/fragments.js\" async=\"\"></script>");
    assert_eq!(
        screen
            .evaluate::<u32>("document.body.childElementCount")
            .await,
        2
    );

    let streamed = screen.main().await;
    screen.begin(&format!("{url}?whole")).await;
    screen.until(IS_WHOLE).await;
    screen.until_text(&NAMES).await;
    assert_eq!(streamed, screen.main().await);
}

#[tokio::test]
async fn a_browser_without_scripts_places_fragments_before_the_page_ends() {
    let (url, released) = serve().await;
    let browser = Browser::start_for_streams().await;
    browser.allow_scripts(false).await;
    see_fragments_come(&browser, &url, &released).await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
async fn a_browser_with_scripts_places_fragments_itself() {
    let (url, released) = serve().await;
    released.release("script");
    let browser = Browser::start_for_streams().await;
    see_fragments_come(&browser, &url, &released).await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
async fn a_browser_that_needs_the_script_places_fragments_before_the_page_ends() {
    let (url, released) = serve().await;
    released.release("script");
    let firefox = Firefox::start().await;
    see_fragments_come(&firefox, &url, &released).await;
}

#[tokio::test]
async fn a_screen_reader_finds_fragments_in_their_places_in_the_browser() {
    let (url, released) = serve().await;
    released.release("script");
    let browser = Browser::start_for_streams().await;
    browser.begin(&url).await;
    browser.until_text(&[]).await;
    // The document is busy until it has ended, and elements of fallbacks may say so themselves.
    let begun = browser.accessible().await;
    for line in [
        "RootWebArea \"Tea\" busy",
        "paragraph \"\" busy",
        "cell \"loading\"",
        "option \"loading\"",
        "heading \"end\"",
    ] {
        assert!(begun.iter().any(|it| it == line), "no {line} in {begun:#?}");
    }

    released.release_all();
    browser.until_text(&NAMES).await;
    browser.until("document.readyState === 'complete'").await;
    let streamed = browser.accessible().await;
    let busy = streamed.iter().find(|line| line.ends_with("busy"));
    assert_eq!(busy, None);
    browser.begin(&format!("{url}?whole")).await;
    browser.until(IS_WHOLE).await;
    assert_eq!(streamed, browser.accessible().await);
}

async fn see_a_script_run(screen: &impl Screen, seen: &str) {
    let (url, released) = serve().await;
    released.release("script");
    screen.begin(&url).await;
    screen.until_text(&[]).await;
    released.release_all();
    screen
        .until(&format!("document.body.dataset.seen === '{seen}'"))
        .await;
}

#[tokio::test]
async fn scripts_in_fragments_run_in_the_browser() {
    // The parser waits for the script, so it sees the elements before it.
    see_a_script_run(&Browser::start_for_streams().await, "1").await;
    see_a_script_run(&Firefox::start().await, "2").await;
}

#[tokio::test]
async fn a_late_script_places_the_fragments_that_have_come_to_the_browser() {
    let (url, released) = serve().await;
    let firefox = Firefox::start().await;
    firefox.begin(&url).await;
    firefox.until_text(&[]).await;
    let (last, others) = NAMES.split_last().unwrap();
    for name in others {
        released.release(name);
    }
    let have_come = "document.querySelectorAll('body > template').length";
    firefox
        .until(&format!("{have_come} === {}", others.len() + 1))
        .await;
    firefox.until_text(&[]).await;
    released.release("script");
    firefox.until_text(others).await;
    assert_eq!(firefox.state().await, "loading");
    released.release(last);
    firefox.until_text(&NAMES).await;
}

#[tokio::test]
async fn a_browser_that_needs_the_script_keeps_the_fallbacks_without_it() {
    let (url, released) = serve().await;
    let firefox = Firefox::start().await;
    firefox.begin(&url).await;
    firefox.until_text(&[]).await;
    released.release_all();
    firefox.until("document.readyState === 'interactive'").await;
    firefox.until_text(&[]).await;
    firefox.begin(&format!("{url}?whole")).await;
    firefox.until(IS_WHOLE).await;
    firefox.until_text(&NAMES).await;
}
