//! Operations, section 6 of their contract: the pages over HTTP. `operation_browser.rs` tests them in a browser.

use axum::extract::Request;
use std::time::SystemTime;
use test_support::operation::{Answer, App, SECOND, memory, progress};
use tokio::time::{Instant, sleep};
use tower_promises_operations::page::{ErrorContext, PageContext, Strings};

const HTML: (&str, &str) = (
    "accept",
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
);

/// A service whose work reports progress and a message, and takes nine seconds.
fn talking(layer: tower_promises_operations::OperationLayer) -> App {
    App::new(layer, async |request: Request| {
        let progress = progress(&request);
        progress.set(42.9);
        progress.set_message("<script>\"&'</script>");
        sleep(SECOND * 9).await;
    })
}

async fn browse(app: &App, path: &str) -> Answer {
    app.ask(&format!("GET {path}"), &[HTML]).await
}

/// Checks that a page works on a site that allows no inline code, and does not reveal its address to other sites.
fn assert_harmless(page: &Answer) {
    let content_type = page.header("content-type");
    assert_eq!(content_type, "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'self';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    for inline in ["<style", " style=", " onclick=", " onload=", "javascript:"] {
        assert!(!page.body.contains(inline), "{inline} in {}", page.body);
    }
    for (_, rest) in page
        .body
        .match_indices("<script")
        .map(|(at, _)| page.body.split_at(at))
    {
        let (tag, rest) = rest.split_once('>').unwrap();
        assert!(tag.contains(" src=\"/"), "{tag}");
        assert!(rest.starts_with("</script>"), "{rest}");
    }
}

// Contract: 6.1, 6.3
#[tokio::test(start_paused = true)]
async fn section_6_the_page_shows_the_progress() {
    let app = talking(memory());
    let path = app.start("POST /", &[]).await;
    let page = browse(&app, &path).await;
    assert_eq!(page.status, 200);
    assert_harmless(&page);
    let token = page.body.split("name=\"token\" value=\"").nth(1).unwrap();
    let token = token.split('"').next().unwrap();
    assert_eq!(token.len(), 32);
    for part in [
        "<html lang=\"en\"",
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">",
        "<meta name=\"color-scheme\" content=\"light dark\">",
        "<progress max=\"100\" aria-labelledby=\"heading\" value=\"42.9\"></progress>",
        "role=\"status\" dir=\"auto\">&lt;script&gt;&quot;&amp;&#39;&lt;/script&gt;</p>",
        "<time id=\"elapsed\">0:0",
        &format!("<form method=\"post\" action=\"{path}/cancel\">"),
        "<button>Cancel</button>",
        "<noscript><meta http-equiv=\"refresh\" content=\"1\"></noscript>",
    ] {
        assert!(page.body.contains(part), "{part} is not in {}", page.body);
    }
}

/// Returns the seconds after which a page reloads itself without scripts.
fn reload(page: &Answer) -> Option<u64> {
    let refresh = "<noscript><meta http-equiv=\"refresh\" content=\"";
    let (_, rest) = page.body.split_once(refresh)?;
    rest.split('"').next()?.parse().ok()
}

// Contract: 6.2
#[tokio::test(start_paused = true)]
async fn section_6_without_scripts_the_page_reloads_itself_less_and_less_often() {
    let began = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let start = Instant::now();
    let clock = move || u64::try_from((began + start.elapsed()).as_millis()).unwrap();
    let layer = memory().lifetime(SECOND * 9000).clock(clock);
    let app = App::new(layer, async |_| sleep(SECOND * 8000).await);
    let path = app.start("POST /", &[]).await;
    let mut intervals = Vec::new();
    // The first reply takes two seconds.
    for pause in [0.5, 18.0, 40.0, 7000.0] {
        sleep(SECOND.mul_f64(pause)).await;
        intervals.push(reload(&browse(&app, &path).await).unwrap());
    }
    assert_eq!(intervals, [2, 11, 31, 60]);

    let page = browse(&app, &path).await;
    let stop = format!("{path}?reload=off");
    assert!(
        page.body.contains("<a href=\"?reload=off\">"),
        "{}",
        page.body
    );
    let stopped = browse(&app, &stop).await;
    assert_eq!((stopped.status.as_u16(), reload(&stopped)), (200, None));
    assert!(stopped.body.contains("<a href=\"\">Reload</a>"));
    // It ends on the result all the same.
    app.ended(&path).await;
    assert_eq!(browse(&app, &stop).await.status, 303);
}

#[tokio::test(start_paused = true)]
async fn section_6_the_assets_of_the_page_come_from_the_layer_and_are_cacheable() {
    let app = talking(memory().mount("/jobs"));
    let path = app.start("POST /", &[]).await;
    let page = browse(&app, &path).await;
    let files: Vec<_> = page
        .body
        .split('"')
        .filter(|part| part.contains("/assets/"))
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for (file, content_type) in files
        .iter()
        .zip(["image/svg+xml", "text/css", "text/javascript"])
    {
        assert!(file.starts_with("/jobs/assets/"), "{file}");
        let get = app.get(file).await;
        assert_eq!(get.status, 200);
        assert!(get.header("content-type").starts_with(content_type));
        assert_eq!(get.header("x-content-type-options"), "nosniff");
        assert_eq!(
            get.header("cache-control"),
            "public, max-age=31536000, immutable"
        );
        assert!(!get.body.is_empty());
        let head = app.ask(&format!("HEAD {file}"), &[]).await;
        assert_eq!((head.status, head.headers), (get.status, get.headers));
        let post = app.ask(&format!("POST {file}"), &[]).await;
        assert_eq!(
            (post.status.as_u16(), post.header("allow")),
            (405, "GET, HEAD")
        );
    }
}

// Contract: 6.4
#[tokio::test(start_paused = true)]
async fn section_6_the_page_of_an_ended_operation_redirects_to_its_result() {
    for origin in ["", "https://good.example"] {
        let layer = memory().public_origin(origin);
        let app = App::working(layer);
        for (line, status) in [
            ("POST /?ms=3000", "Succeeded"),
            ("POST /?ms=3000&code=500", "Failed"),
            ("POST /?ms=600000", "Canceled"),
        ] {
            let path = app.start(line, &[]).await;
            let path = path.strip_prefix(origin).unwrap();
            assert_eq!(browse(&app, path).await.status, 200);
            if status == "Canceled" {
                app.ask(&format!("DELETE {path}"), &[]).await;
            }
            assert_eq!(app.ended(path).await["status"], status);
            let page = browse(&app, path).await;
            assert_eq!(page.status, 303);
            assert_eq!(page.header("location"), format!("{origin}{path}/result"));
            assert_eq!(page.header("vary"), "Accept");
            assert_eq!(page.header("retry-after"), "");
            let head = app.ask(&format!("HEAD {path}"), &[HTML]).await;
            assert_eq!((head.status, head.headers), (page.status, page.headers));
            assert_eq!(app.get(path).await.status, 200);
        }
    }
}

// Contract: 6.5
#[tokio::test(start_paused = true)]
async fn section_6_errors_are_small_pages_with_the_same_status() {
    let layer = memory()
        .max_running_per_principal(1)
        .max_running(2)
        .retention(SECOND * 10)
        .principal(|request| request.uri.query().map(str::to_owned));
    let app = talking(layer);
    let expired = app.start("POST /?anna", &[]).await;
    sleep(SECOND * 20).await;
    let cancelled = app.start("POST /?anna", &[]).await;
    app.ask(&format!("DELETE {cancelled}?anna"), &[]).await;
    for user in ["anna", "bert"] {
        app.start(&format!("POST /?{user}"), &[]).await;
    }
    for (line, status, heading) in [
        (
            "GET /.operations/unknown".to_owned(),
            404,
            "There is nothing here",
        ),
        (
            format!("GET {expired}?anna"),
            410,
            "There is no result any more",
        ),
        (
            format!("GET {expired}/result?anna"),
            410,
            "There is no result any more",
        ),
        (format!("GET {cancelled}/result?anna"), 410, "Cancelled"),
        (
            format!("POST {cancelled}/cancel?anna"),
            409,
            "That is not possible now",
        ),
        ("POST /?anna".to_owned(), 429, "Too much at once"),
        ("POST /?carl".to_owned(), 503, "Very busy at the moment"),
    ] {
        let page = app.ask(&line, &[HTML]).await;
        assert_eq!(page.status, status, "{line}");
        assert_harmless(&page);
        let heading = format!("<h1>{heading}</h1>");
        assert!(page.body.contains(&heading), "{line} {}", page.body);
        assert!(page.body.len() < 2000);
        assert_eq!(
            !page.header("retry-after").is_empty(),
            matches!(status, 429 | 503)
        );
    }
}

// Contract: 6.6
#[tokio::test(start_paused = true)]
async fn section_6_the_page_can_be_translated() {
    let german = Strings::new("de")
        .running("In Arbeit")
        .cancel("Abbrechen")
        .not_found("Hier ist nichts");
    let app = talking(memory().strings(german));
    let path = app.start("POST /", &[]).await;
    let page = browse(&app, &path).await.body;
    for part in [
        "<html lang=\"de\"",
        ">In Arbeit</h1>",
        "<button>Abbrechen</button>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let page = browse(&app, "/.operations/unknown").await.body;
    assert!(page.contains("<h1>Hier ist nichts</h1>"), "{page}");
}

// Contract: 6.1
#[tokio::test(start_paused = true)]
async fn section_6_the_page_can_be_replaced() {
    let page = |context: &PageContext<'_>| {
        format!(
            "{}|{:?}|{:?}|{}|{}|{}|{}",
            context.status,
            context.progress,
            context.message,
            context.links.own,
            context.links.cancel,
            context.cancel_token.len(),
            context.can_cancel,
        )
    };
    let app = talking(memory().page(page));
    let path = app.start("POST /", &[]).await;
    let answer = browse(&app, &path).await;
    let expected =
        format!(r#"Running|Some(42.9)|Some("<script>\"&'</script>")|{path}|{path}/cancel|32|true"#);
    assert_eq!(answer.body, expected);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(answer.header("cache-control"), "no-store");
    // The layer does not know the requirements of a page of the application.
    assert_eq!(answer.header("content-security-policy"), "");
    // An ended operation still redirects to its result.
    app.ended(&path).await;
    assert_eq!(browse(&app, &path).await.status, 303);
}

// Contract: 6.5
#[tokio::test(start_paused = true)]
async fn section_6_the_error_page_can_be_replaced() {
    let page = |context: &ErrorContext<'_>| {
        let (status, is_cancelled) = (context.status.as_u16(), context.is_cancelled);
        format!("{status} {is_cancelled} <a href=\"/\">home</a>")
    };
    let app = talking(memory().error_page(page));
    let path = app.start("POST /", &[]).await;
    app.ask(&format!("DELETE {path}"), &[]).await;
    for (path, status, is_cancelled) in [
        (format!("{path}/result"), 410, true),
        ("/.operations/unknown".to_owned(), 404, false),
    ] {
        let answer = browse(&app, &path).await;
        assert_eq!(answer.status, status);
        let expected = format!("{status} {is_cancelled} <a href=\"/\">home</a>");
        assert_eq!(answer.body, expected);
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    // Clients that are no browsers still get the problem document.
    let answer = app.ask("GET /.operations/unknown", &[]).await;
    assert_eq!(answer.header("content-type"), "application/problem+json");
}
