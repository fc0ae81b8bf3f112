//! The approver of the durable request, who has the link to it.

use super::shop::{Mail, Shop};
use crate::stage::page;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, REFRESH};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use serde::Deserialize;
use std::fmt::Write;
use std::sync::Arc;
use tower::{Service, ServiceExt};

/// The newest mails are shown.
const SHOWN: usize = 3;

/// The reader of the mails. `S` is the service that the links lead to.
#[derive(Clone)]
struct Approver<S> {
    orders: S,
    shop: Arc<Shop>,
}

/// The mailbox. It reloads itself until there is a mail to answer, so that no form disappears while it is used.
async fn mailbox<S>(State(approver): State<Approver<S>>) -> Response {
    let mut mails = approver.shop.mails();
    mails.truncate(SHOWN);
    let mut list = String::from("<h1>Mail</h1>");
    if mails.is_empty() {
        list += "<p>No mail yet. This page looks every two seconds.</p>";
    }
    for Mail { number, answer, .. } in &mails {
        // Writing to a string does not fail.
        let _ = match answer {
            Some(answer) => write!(list, "<p>Order {number}: {answer}.</p>"),
            None => write!(
                list,
                r#"<form method="post" action="/durable/mail/{number}">
<p>Order {number} over 42.00 €. Do you approve?</p>
<button name="granted" value="true">Approve</button>
<button name="granted" value="false">Refuse</button>
</form>"#
            ),
        };
    }
    if mails.iter().any(|mail| mail.answer.is_none()) {
        return page(&list).into_response();
    }
    ([(REFRESH, "2")], page(&list)).into_response()
}

#[derive(Deserialize)]
struct Decision {
    granted: bool,
}

/// Follows the link of a mail: a `POST` settles the promise.
async fn decide<S, R>(
    State(approver): State<Approver<S>>,
    Path(number): Path<usize>,
    Form(Decision { granted }): Form<Decision>,
) -> Result<Redirect, StatusCode>
where
    S: Service<Request, Response = Response<R>>,
{
    let mails = approver.shop.mails();
    let mail = mails.into_iter().find(|mail| mail.number == number);
    let link = mail.ok_or(StatusCode::NOT_FOUND)?.link;
    let settlement = Request::post(link)
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(format!(r#"{{"value":{granted}}}"#)));
    let settlement = settlement.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let settled = approver.orders.oneshot(settlement).await;
    let settled = settled.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let answer = match settled.status() {
        StatusCode::OK if granted => "approved",
        StatusCode::OK => "refused",
        StatusCode::CONFLICT => "decided otherwise before",
        _ => "too late",
    };
    approver.shop.answered(number, answer);
    Ok(Redirect::to("/durable/mail"))
}

pub(super) fn router<S, R>(orders: S, shop: Arc<Shop>) -> Router
where
    S: Service<Request, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Send,
    R: Send + 'static,
{
    Router::new()
        .route("/durable/mail", get(mailbox::<S>))
        .route("/durable/mail/{number}", post(decide::<S, R>))
        .with_state(Approver { orders, shop })
}
