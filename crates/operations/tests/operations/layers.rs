//! Layers around the layer for operations, and inside of it.

use bytes::Bytes;
use http::{HeaderName, Method, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::time::Duration;
use test_support::operation::{App, SECOND, memory, read, request};
use tower::{ServiceBuilder, ServiceExt};
use tower_http::cors::CorsLayer;
use tower_promises_operations::{OperationBody, OperationRequestBody};

#[tokio::test]
async fn bodies_are_empty_by_default() {
    async fn check<B: Body<Error: std::fmt::Debug> + Default>() {
        let body = B::default();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }
    check::<OperationBody<Full<Bytes>>>().await;
    check::<OperationRequestBody<Full<Bytes>>>().await;
}

const SITE: (&str, &str) = ("origin", "https://app.example");

/// The CORS settings that the guide recommends.
fn cors() -> CorsLayer {
    let own = HeaderName::from_static;
    CorsLayer::new()
        .allow_origin([SITE.1.parse().unwrap()])
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            header::ACCEPT,
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            own("idempotency-key"),
            own("last-event-id"),
            own("prefer"),
        ])
        .expose_headers([
            header::ETAG,
            header::LINK,
            header::LOCATION,
            header::RETRY_AFTER,
            own("asyncresult"),
            own("operation-location"),
            own("preference-applied"),
        ])
        .max_age(Duration::from_secs(600))
}

#[tokio::test(start_paused = true)]
async fn a_page_of_another_site_uses_operations_within_its_cors_rules() {
    let mut app = App::working(memory().idempotency_keys(true));
    app.router = app.router.layer(cors());
    let path = app.start("POST /?ms=9000", &[]).await;
    // A browser first sends a preflight request, with only these headers.
    for (target, method, names) in [
        ("/", "POST", "content-type,idempotency-key,prefer"),
        (&*path, "GET", "if-none-match"),
        (&*path, "DELETE", "authorization,if-match"),
        (&*format!("{path}/events"), "GET", "last-event-id"),
        (&*format!("{path}/cancel"), "POST", "content-type,if-match"),
    ] {
        let preflight = [
            SITE,
            ("access-control-request-method", method),
            ("access-control-request-headers", names),
        ];
        let answer = app.ask(&format!("OPTIONS {target}"), &preflight).await;
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.header("access-control-allow-origin"), SITE.1);
        let methods = answer.header("access-control-allow-methods");
        assert!(
            methods.split(',').any(|allowed| allowed == method),
            "{methods}"
        );
        let allowed = answer.header("access-control-allow-headers");
        for name in names.split(',') {
            assert!(allowed.split(',').any(|allowed| allowed == name), "{name}");
        }
    }
    // The page can read the headers of the layer only if they are exposed, for each kind of answer.
    let mut answers = vec![
        app.ask("POST /?ms=9000", &[SITE, ("prefer", "respond-async")])
            .await,
        app.ask(&format!("GET {path}"), &[SITE]).await,
        app.ask(&format!("GET {path}/result"), &[SITE]).await,
        app.ask("GET /.operations/unknown", &[SITE]).await,
    ];
    app.ended(&path).await;
    answers.push(app.ask(&format!("GET {path}/result"), &[SITE]).await);
    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    assert_eq!(statuses, [202, 200, 202, 404, 200]);
    let readable = ["cache-control", "content-length", "content-type"];
    let of_the_layer = [
        "asyncresult",
        "etag",
        "link",
        "location",
        "operation-location",
        "preference-applied",
        "retry-after",
    ];
    let mut seen = std::collections::BTreeSet::new();
    for answer in &answers {
        assert_eq!(answer.header("access-control-allow-origin"), SITE.1);
        let exposed = answer.header("access-control-expose-headers").to_owned();
        for name in answer.headers.keys().map(HeaderName::as_str) {
            if of_the_layer.contains(&name) {
                assert!(exposed.split(',').any(|exposed| exposed == name), "{name}");
                seen.insert(name.to_owned());
            }
        }
        assert!(readable.iter().all(|name| !exposed.contains(name)));
        let vary = answer.headers.get_all(header::VARY).iter();
        let vary: Vec<_> = vary.map(|line| line.to_str().unwrap()).collect();
        assert!(vary.join(",").contains("origin"), "{vary:?}");
    }
    assert_eq!(Vec::from_iter(seen), of_the_layer);
    // Only the page of the layer may use the form that cancels.
    let form = [SITE, ("sec-fetch-site", "cross-site")];
    let refused = app.ask(&format!("POST {path}/cancel"), &form).await;
    assert_eq!(refused.status, 403);
    assert_eq!(app.ask(&format!("DELETE {path}"), &form).await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn cors_works_outside_and_inside_of_the_layer() {
    let work = async |request: http::Request<OperationRequestBody<axum::body::Body>>| {
        let request = request.map(axum::body::Body::new);
        Ok::<_, Infallible>(test_support::operation::work(request).await)
    };
    let outside = ServiceBuilder::new()
        .layer(cors())
        .layer(memory())
        .service_fn(work);
    let inside = ServiceBuilder::new()
        .layer(memory().wait(SECOND))
        .layer(cors())
        .service_fn(work);
    for (line, status) in [("OPTIONS /", 200), ("POST /?ms=9000", 202)] {
        let headers = [SITE, ("access-control-request-method", "POST")];
        let answers = [
            outside.clone().oneshot(request(line, &headers)).await,
            inside.clone().oneshot(request(line, &headers)).await,
        ];
        for answer in answers {
            let answer = read(answer.unwrap().map(axum::body::Body::new)).await;
            assert_eq!(answer.status, status, "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_setter_changes_no_other_clone() {
    let layer = memory().wait(SECOND);
    let (clone, patient) = (layer.clone(), layer.clone().wait(SECOND * 20));
    let [first, second, third] = [layer, clone, patient].map(App::working);
    for (app, status) in [(&first, 202), (&second, 202), (&third, 200)] {
        assert_eq!(app.ask("POST /?ms=9000", &[]).await.status, status);
    }
    // Clones share their operations. The changed layer shares only the backend.
    let path = first.start("POST /?ms=9000", &[]).await;
    assert_eq!(second.operations.running(), first.operations.running());
    assert_eq!(third.operations.running(), 0);
    assert_eq!(third.ended(&path).await["status"], "Succeeded");
}
