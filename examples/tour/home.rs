//! The page with all demos.

use crate::demos::{ALL, Demo};
use crate::excerpt::excerpt;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::get;
use minijinja::{Environment, Value, context};

const STYLE: &str = include_str!("style.css");
const ICON: &str = include_str!("icon.svg");

fn view(demo: &Demo) -> Value {
    let windows = demo.windows.iter().zip(1..);
    let windows = windows.map(|(window, number)| {
        context! {
            title => window.title,
            path => window.path,
            height => window.height,
            frame => format!("{}-{number}", demo.name),
        }
    });
    context! {
        name => demo.name,
        title => demo.title,
        problem => demo.problem,
        code => excerpt(demo.source),
        windows => windows.collect::<Vec<_>>(),
    }
}

/// Renders the page. It is the same for all requests.
fn render() -> Result<String, minijinja::Error> {
    let mut templates = Environment::new();
    templates.add_template("home.html", include_str!("home.html"))?;
    let demos: Vec<Value> = ALL.iter().map(view).collect();
    templates
        .get_template("home.html")?
        .render(context! { demos })
}

pub(crate) fn router() -> Result<Router, minijinja::Error> {
    let page = render()?;
    let style = ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE);
    let icon = ([(CONTENT_TYPE, "image/svg+xml")], ICON);
    Ok(Router::new()
        .route("/", get(async move || Html(page)))
        .route("/style.css", get(async move || style))
        .route("/icon.svg", get(async move || icon)))
}
