//! Webhooks: signatures, retries, receivers that end or redirect, addresses, TLS, limits.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::future::pending;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use test_support::eventually::eventually;
use test_support::operation::App;
use test_support::recorded::RecordedHere;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tower_promises_backend::memory::{MemoryBus, MemoryQueue, MemoryStore};
use tower_promises_backend::{
    Backend, BackendError, BoxFuture, Capabilities, Enqueued, Envelope, Outcome, Queue, Receipt,
    Taken,
};
use tower_promises_operations::OperationLayer;
use tower_promises_tasks::{
    TaskId, TaskQueueOptions, TaskState, TaskStatus, Tasks, Webhook, WebhookSecret, WebhookSender,
    WebhookSenderBuilder, Worker,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A request that a receiver has got.
#[derive(Clone, Debug)]
struct Got {
    headers: HeaderMap,
    body: Bytes,
}

type Answer = Arc<dyn Fn(usize) -> BoxFuture<'static, Response> + Send + Sync>;

/// A receiver of webhooks. It answers the n-th request with a function.
#[derive(Clone)]
struct Receiver {
    got: Arc<Mutex<Vec<Got>>>,
    answer: Answer,
    port: u16,
}

impl Receiver {
    fn new(answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> (Self, Router) {
        let answer = Arc::new(answer);
        Self::with(move |number| {
            let answer = answer.clone();
            Box::pin(async move { answer(number) })
        })
    }

    fn with(
        answer: impl Fn(usize) -> BoxFuture<'static, Response> + Send + Sync + 'static,
    ) -> (Self, Router) {
        let receiver = Self {
            got: Arc::default(),
            answer: Arc::new(answer),
            port: 0,
        };
        let router = Router::new()
            .fallback(Self::receive)
            .with_state(receiver.clone());
        (receiver, router)
    }

    async fn receive(State(receiver): State<Self>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let number = {
            let mut got = receiver.got.lock().unwrap();
            got.push(Got {
                headers: parts.headers,
                body,
            });
            got.len()
        };
        (receiver.answer)(number).await
    }

    /// Starts a receiver on this machine.
    async fn start((mut receiver, router): (Self, Router)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        receiver.port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?a=b", self.port)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

fn status(code: u16) -> Response {
    StatusCode::from_u16(code).unwrap().into_response()
}

/// A queue that delivers again at once, and notes the pauses that were asked for.
#[derive(Clone, Default)]
struct Impatient {
    queue: MemoryQueue,
    pauses: Arc<Mutex<Vec<Duration>>>,
}

impl Queue for Impatient {
    fn capabilities(&self) -> Capabilities {
        self.queue.capabilities()
    }

    fn enqueue(&self, envelope: Envelope) -> BoxFuture<'_, Result<Enqueued, BackendError>> {
        self.queue.enqueue(envelope)
    }

    fn take<'a>(
        &'a self,
        queue: &'a str,
        limit: usize,
        lease: Duration,
    ) -> BoxFuture<'a, Result<Vec<Taken>, BackendError>> {
        self.queue.take(queue, limit, lease)
    }

    fn renew<'a>(
        &'a self,
        receipt: &'a Receipt,
        lease: Duration,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.queue.renew(receipt, lease)
    }

    fn settle<'a>(
        &'a self,
        receipt: &'a Receipt,
        mut outcome: Outcome,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        if let Outcome::Retry { after } = &mut outcome {
            self.pauses.lock().unwrap().push(*after);
            *after = Duration::ZERO;
        }
        self.queue.settle(receipt, outcome)
    }
}

/// A process that sends webhooks.
struct Site {
    tasks: Tasks,
    queue: Impatient,
    _worker: Worker,
}

fn local() -> WebhookSenderBuilder {
    let sender = WebhookSender::builder().secret(WebhookSecret::new(SECRET).unwrap());
    sender.allow_http(true).allow_private_addresses(true)
}

impl Site {
    fn new(sender: WebhookSenderBuilder) -> Self {
        let queue = Impatient::default();
        let backend = Backend::new(MemoryStore::new(), MemoryBus::new(), queue.clone());
        let tasks = Tasks::builder(backend)
            .queue(TaskQueueOptions::new("webhooks").task::<Webhook>())
            .state(sender.build())
            .build();
        let worker = tasks.work().unwrap();
        Self {
            tasks,
            queue,
            _worker: worker,
        }
    }

    async fn submit(&self, url: &str) -> TaskId {
        let webhook = Webhook::new(url, "invoice.paid", &json!({ "id": 7 })).unwrap();
        self.tasks.queue("webhooks").submit(webhook).await.unwrap()
    }

    async fn ended(&self, id: &TaskId) -> TaskStatus {
        eventually("the webhook ends", async || {
            let status = self.tasks.status(id).await.unwrap();
            status.state().is_terminal().then_some(status)
        })
        .await
    }

    /// Sends a webhook. Returns its end.
    async fn send(&self, url: &str) -> TaskStatus {
        let id = self.submit(url).await;
        self.ended(&id).await
    }

    fn pauses(&self) -> Vec<Duration> {
        self.queue.pauses.lock().unwrap().clone()
    }
}

/// Asks the reference implementation in Python whether a request is signed with a secret.
fn reference_verifies(got: &Got, secret: &str) -> bool {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| {
        let program = std::env::current_exe().unwrap();
        program.ancestors().nth(3).unwrap().to_owned()
    });
    let wheel = target.join("standardwebhooks/standardwebhooks-1.1.0-py3-none-any.whl");
    assert!(
        wheel.exists(),
        "{wheel:?} is needed for this test: .ci/install installs it"
    );
    let verify = "import json, sys\n\
        from standardwebhooks.webhooks import Webhook, WebhookVerificationError\n\
        got = json.load(sys.stdin)\n\
        try:\n    Webhook(got['secret']).verify(got['body'], got['headers'])\n\
        except WebhookVerificationError as error:\n    sys.exit(str(error))\n\
        print('verified')";
    let headers = got.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let headers: std::collections::BTreeMap<_, _> = headers.collect();
    let body = std::str::from_utf8(&got.body).unwrap();
    let input = json!({ "secret": secret, "headers": headers, "body": body });
    let mut python = Command::new("python3")
        .args(["-c", verify])
        .env("PYTHONPATH", wheel)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is needed for this test");
    python
        .stdin
        .take()
        .unwrap()
        .write_all(input.to_string().as_bytes())
        .unwrap();
    let output = python.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    match output.stdout.as_slice() {
        b"verified\n" => true,
        _ => {
            assert_eq!(text.trim(), "No matching signature found");
            false
        }
    }
}

#[tokio::test]
async fn the_reference_implementation_verifies_the_signature() {
    let receiver = Receiver::start(Receiver::new(|_| status(204))).await;
    let new = WebhookSecret::new(NEW_SECRET).unwrap();
    let site = Site::new(local().secret(new));
    let end = site.send(&receiver.url()).await;
    assert_eq!(end.state(), TaskState::Succeeded, "{end:?}");
    let mut got = receiver.got().remove(0);
    // During a rotation, both secrets verify.
    assert!(reference_verifies(&got, SECRET));
    assert!(reference_verifies(&got, NEW_SECRET));
    let other = WebhookSecret::random().unwrap().reveal();
    assert!(!reference_verifies(&got, &other));
    got.body = Bytes::from_iter(got.body.iter().map(|byte| byte.to_ascii_uppercase()));
    assert!(!reference_verifies(&got, SECRET));
}

#[tokio::test]
async fn a_request_has_the_form_of_the_specification() {
    let receiver = Receiver::start(Receiver::new(|_| status(200))).await;
    let site = Site::new(local());
    let before = SystemTime::now();
    site.send(&receiver.url()).await;
    let got = &receiver.got()[0];
    let header = |name| got.headers[name].to_str().unwrap();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("host"), format!("127.0.0.1:{}", receiver.port));
    assert!(header("webhook-id").starts_with("msg_"));
    let timestamp: u64 = header("webhook-timestamp").parse().unwrap();
    let sent = SystemTime::UNIX_EPOCH + Duration::from_secs(timestamp + 1);
    assert!(sent >= before && sent <= SystemTime::now() + Duration::from_secs(1));
    assert!(header("webhook-signature").starts_with("v1,"));
    let body: Value = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(body["type"], "invoice.paid");
    assert_eq!(body["data"], json!({ "id": 7 }));
    let timestamp = humantime::parse_rfc3339(body["timestamp"].as_str().unwrap()).unwrap();
    assert!(timestamp + Duration::from_millis(2) >= before, "{body}");
}

#[tokio::test]
async fn a_webhook_is_tried_ten_times_within_three_days_and_is_a_dead_letter_then() {
    let answer = |number| status(if number <= 10 { 500 } else { 200 });
    let receiver = Receiver::start(Receiver::new(answer)).await;
    let site = Site::new(local());
    let id = site.submit(&receiver.url()).await;
    let end = site.ended(&id).await;
    assert_eq!((end.state(), end.attempt()), (TaskState::Dead, 10));
    assert!(end.error().unwrap().contains("500"), "{:?}", end.error());
    let pauses = site.pauses();
    let seconds = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
    assert_eq!(pauses.len(), seconds.len());
    for (pause, seconds) in pauses.iter().zip(seconds) {
        let shortest = Duration::from_secs(seconds);
        assert!(
            *pause >= shortest && *pause <= shortest * 6 / 5,
            "{pause:?}"
        );
    }
    // Sent again, it is still the same message.
    site.tasks.queue("webhooks").send_again(&id).await.unwrap();
    let end = site.ended(&id).await;
    assert_eq!(end.state(), TaskState::Succeeded);
    let ids = receiver
        .got()
        .into_iter()
        .map(|got| got.headers["webhook-id"].clone());
    let mut ids: Vec<_> = ids.collect();
    assert_eq!(ids.len(), 11);
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_receiver_can_ask_for_a_pause() {
    let date = SystemTime::now() + HOUR * 3;
    let date = httpdate::fmt_http_date(date);
    let receiver = Receiver::start(Receiver::new(move |number| match number {
        1 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "3600")]).into_response(),
        2 => (
            StatusCode::SERVICE_UNAVAILABLE,
            [("retry-after", date.as_str())],
        )
            .into_response(),
        3 => (
            StatusCode::SERVICE_UNAVAILABLE,
            [("retry-after", "99999999")],
        )
            .into_response(),
        4 => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "soon")]).into_response(),
        _ => status(200),
    }));
    let receiver = receiver.await;
    let site = Site::new(local());
    assert_eq!(
        site.send(&receiver.url()).await.state(),
        TaskState::Succeeded
    );
    let within = |pause: Duration, longest: Duration| pause <= longest * 6 / 5;
    let pauses = site.pauses();
    assert!(pauses[0] >= HOUR && within(pauses[0], HOUR), "{pauses:?}");
    assert!(
        pauses[1] > HOUR * 2 && within(pauses[1], HOUR * 3),
        "{pauses:?}"
    );
    assert!(
        pauses[2] >= HOUR * 24 && within(pauses[2], HOUR * 24),
        "{pauses:?}"
    );
    assert!(
        pauses[3] >= HOUR * 2 && within(pauses[3], HOUR * 2),
        "{pauses:?}"
    );
}

#[tokio::test]
async fn a_receiver_that_is_gone_ends_the_webhook() {
    let receiver = Receiver::start(Receiver::new(|_| status(410))).await;
    let site = Site::new(local());
    let end = site.send(&receiver.url()).await;
    assert_eq!((end.state(), end.attempt()), (TaskState::Failed, 1));
    assert!(end.error().unwrap().contains("410"));
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Receiver::start(Receiver::new(|_| status(200))).await;
    let location = other.url();
    let receiver = Receiver::start(Receiver::new(move |number| match number {
        1 => (
            StatusCode::TEMPORARY_REDIRECT,
            [("location", location.as_str())],
        )
            .into_response(),
        _ => status(410),
    }));
    let receiver = receiver.await;
    let site = Site::new(local());
    let end = site.send(&receiver.url()).await;
    assert_eq!(end.attempt(), 2);
    assert!(other.got().is_empty());
}

#[tokio::test]
async fn private_addresses_are_refused_also_behind_a_name() {
    let receiver = Receiver::start(Receiver::new(|_| status(200))).await;
    let port = receiver.port;
    let sender = || local().allow_private_addresses(false);
    let site = Site::new(sender());
    for host in [
        "127.0.0.1",
        "localhost",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
    ] {
        let end = site.send(&format!("http://{host}:{port}/")).await;
        assert_eq!(
            (end.state(), end.attempt()),
            (TaskState::Failed, 1),
            "{host}"
        );
        assert!(end.error().unwrap().contains("allowed"), "{host}: {end:?}");
    }
    assert!(receiver.got().is_empty());
    let sender = sender().build();
    assert!(!sender.allows("http://10.0.0.1/") && !sender.allows("http://[fe80::1]/"));
    assert!(sender.allows("http://example.com/hook") && sender.allows("http://1.1.1.1/"));
}

#[tokio::test]
async fn urls_without_tls_with_a_user_or_without_a_host_are_refused() {
    let receiver = Receiver::start(Receiver::new(|_| status(200))).await;
    let site = Site::new(local().allow_http(false));
    let end = site.send(&receiver.url()).await;
    assert_eq!((end.state(), end.attempt()), (TaskState::Failed, 1));
    assert!(receiver.got().is_empty());
    let sender = WebhookSender::builder().build();
    assert!(sender.allows("https://example.com:8443/hook"));
    for url in [
        "http://example.com/",
        "https://user:password@example.com/",
        "https:///hook",
        "ftp://example.com/",
        "/hook",
        "",
    ] {
        assert!(!sender.allows(url), "{url}");
    }
    assert!(!sender.allows(&format!("https://example.com/{}", "x".repeat(3000))));
}

#[tokio::test]
async fn nothing_is_sent_without_a_secret() {
    let receiver = Receiver::start(Receiver::new(|_| status(200))).await;
    let none = WebhookSender::builder()
        .allow_http(true)
        .allow_private_addresses(true);
    let site = Site::new(none);
    assert_eq!(site.send(&receiver.url()).await.state(), TaskState::Failed);
    assert!(receiver.got().is_empty());
}

#[tokio::test]
async fn the_reference_implementation_verifies_the_secret_of_a_single_receiver() {
    let receiver = Receiver::start(Receiver::new(|_| status(200))).await;
    let none = WebhookSender::builder()
        .allow_http(true)
        .allow_private_addresses(true);
    let own = WebhookSecret::random().unwrap();
    let secrets = own.clone();
    let site = Site::new(none.secrets(move |url| match url.contains("127.0.0.1") {
        true => vec![secrets.clone()],
        false => vec![],
    }));
    assert_eq!(
        site.send(&receiver.url()).await.state(),
        TaskState::Succeeded
    );
    assert!(reference_verifies(&receiver.got()[0], &own.reveal()));
}

/// Starts a receiver with TLS for the name `localhost`. Returns its port.
async fn start_tls((receiver, router): (Receiver, Router)) -> (Receiver, u16) {
    let certificate = include_bytes!("certificates/localhost.der").to_vec();
    let key = include_bytes!("certificates/localhost.key.der").to_vec();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], PrivateKeyDer::Pkcs8(key.into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let stream = hyper_util::rt::TokioIo::new(stream);
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(async move { http.serve_connection(stream, service).await });
        }
    });
    (receiver, port)
}

#[tokio::test]
async fn a_receiver_with_tls_must_have_a_certificate_for_its_name() {
    let authority = include_bytes!("certificates/authority.der");
    let (receiver, port) = start_tls(Receiver::new(|_| status(200))).await;
    let trusts = Site::new(local().root_certificate(*authority));
    let end = trusts.send(&format!("https://localhost:{port}/")).await;
    assert_eq!(end.state(), TaskState::Succeeded, "{end:?}");
    assert_eq!(receiver.got().len(), 1);
    // Another name, and an authority that is not trusted.
    let end = trusts.send(&format!("https://127.0.0.1:{port}/")).await;
    assert_eq!(end.state(), TaskState::Dead);
    let end = Site::new(local())
        .send(&format!("https://localhost:{port}/"))
        .await;
    assert_eq!(end.state(), TaskState::Dead);
    assert!(end.error().unwrap().contains("authenticated"), "{end:?}");
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test]
async fn a_receiver_costs_a_bounded_time_and_memory() {
    let short = || local().timeout(Duration::from_millis(300));
    // It never answers.
    let silent = Receiver::with(|number| {
        Box::pin(async move {
            match number {
                1 => pending().await,
                _ => status(200),
            }
        })
    });
    let silent = Receiver::start(silent).await;
    let end = Site::new(short()).send(&silent.url()).await;
    assert_eq!((end.state(), end.attempt()), (TaskState::Succeeded, 2));
    // Its answer never ends. The status counts.
    let endless = Receiver::start(Receiver::new(|_| {
        let bytes = stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1024])));
        Body::from_stream(bytes).into_response()
    }));
    let end = Site::new(short()).send(&endless.await.url()).await;
    assert_eq!((end.state(), end.attempt()), (TaskState::Succeeded, 1));
    // The head of its answer is too large.
    let large = Receiver::start(Receiver::new(|number| match number {
        1 => (StatusCode::OK, [("x-large", "x".repeat(100_000))]).into_response(),
        _ => status(410),
    }));
    let end = Site::new(short()).send(&large.await.url()).await;
    assert_eq!((end.state(), end.attempt()), (TaskState::Failed, 2));
}

#[tokio::test]
async fn a_webhook_can_be_sent_at_the_end_of_a_task() {
    let receiver = Receiver::start(Receiver::new(|_| status(200))).await;
    let site = Site::new(local());
    let queue = site.tasks.queue("webhooks");
    let first = Webhook::new(receiver.url(), "first", &json!({})).unwrap();
    let webhook = Webhook::on_end(receiver.url(), "task.ended");
    let id = queue
        .submit(first)
        .on_end("webhooks", webhook)
        .await
        .unwrap();
    eventually("the end is told", async || {
        (receiver.got().len() == 2).then_some(())
    })
    .await;
    let body: Value = serde_json::from_slice(&receiver.got()[1].body).unwrap();
    assert_eq!(body["type"], "task.ended");
    let data = json!({
        "id": id.as_str(), "queue": "webhooks", "task": "webhook", "state": "succeeded",
    });
    assert_eq!(body["data"], data);
    // Without an end, there is nothing to send.
    let webhook = Webhook::on_end(receiver.url(), "task.ended");
    let id = queue.submit(webhook).await.unwrap();
    assert_eq!(site.ended(&id).await.state(), TaskState::Failed);
}

#[test]
fn secrets_are_read_with_and_without_prefix_and_padding_and_are_not_shown() {
    let secret = WebhookSecret::new(SECRET).unwrap();
    assert_eq!(secret.reveal(), SECRET);
    let bare = SECRET.strip_prefix("whsec_").unwrap();
    assert_eq!(WebhookSecret::new(bare).unwrap().reveal(), SECRET);
    let random = WebhookSecret::random().unwrap().reveal();
    let unpadded = random.trim_end_matches('=');
    assert!(unpadded.len() < random.len());
    assert_eq!(WebhookSecret::new(unpadded).unwrap().reveal(), random);
    for invalid in [
        "",
        "whsec_",
        "whsec_c2hvcnQ=",
        "not base64!",
        &SECRET.repeat(4),
    ] {
        let error = WebhookSecret::new(invalid).unwrap_err();
        assert!(error.to_string().contains("24 to 64 bytes"));
    }
    let sender = local().build();
    assert!(!format!("{secret:?} {sender:?}").contains("MfKQ"));
}

#[tokio::test]
async fn a_client_of_an_operation_is_called_at_its_end() {
    let receiver = Receiver::start(Receiver::new(|_| status(200))).await;
    let site = Site::new(local());
    let call = site.tasks.queue("webhooks").on_operation_end(|operation| {
        let url = operation.callback()?;
        Webhook::of_operation(url, "operation.ended", operation).ok()
    });
    let sender = local().build();
    let layer = OperationLayer::memory()
        .wait(Duration::ZERO)
        .callbacks(move |_, url| sender.allows(url))
        .on_end(call);
    // The work ends when the client has its reply.
    let replied = Arc::new(Notify::new());
    let reply = replied.clone();
    let app = App::new(layer, move |_: Request| {
        let reply = reply.clone();
        async move { reply.notified().await }
    });
    let prefer = format!("callback; url=\"{}\"", receiver.url());
    let path = app.start("POST /", &[("prefer", &prefer)]).await;
    replied.notify_one();
    eventually("the end is told", async || {
        (receiver.got().len() == 1).then_some(())
    })
    .await;
    let got = &receiver.got()[0];
    let body: Value = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(body["type"], "operation.ended");
    assert_eq!(body["data"]["status"], "Succeeded");
    assert!(path.ends_with(body["data"]["id"].as_str().unwrap()));
    // An operation without a callback.
    let path = app.start("POST /", &[]).await;
    replied.notify_one();
    eventually("the operation ends", async || {
        let document = app.document(&path).await;
        (document["status"] == "Succeeded").then_some(())
    })
    .await;
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test]
async fn webhooks_are_counted_by_outcome() {
    let recorded = RecordedHere::start();
    let answer = |number| status(if number == 1 { 500 } else { 204 });
    let receiver = Receiver::start(Receiver::new(answer)).await;
    let gone = Receiver::start(Receiver::new(|_| status(410))).await;
    let site = Site::new(local());
    site.send(&receiver.url()).await;
    site.send(&gone.url()).await;
    site.send("ftp://127.0.0.1/").await;
    // Nothing answers there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hasty = Site::new(local().timeout(Duration::from_millis(1)));
    let dead = hasty.send(&format!("http://{address}/")).await;
    assert_eq!(dead.state(), TaskState::Dead, "{dead:?}");
    let sent = |outcome: &str, count: u32| format!("{{outcome=\"{outcome}\"}} {count}");
    let outcomes = [
        sent("delivered", 1),
        sent("gone", 1),
        sent("refused", 1),
        sent("rejected", 1),
        sent("unreachable", 10),
    ];
    assert_eq!(
        recorded.values("webhooks"),
        outcomes
            .clone()
            .map(|outcome| format!("webhooks_total{outcome}"))
    );
    assert_eq!(
        recorded.values("webhook_duration"),
        outcomes.map(|outcome| format!("webhook_duration_seconds_count{outcome}"))
    );
    assert!(!recorded.handle.render().contains("127.0.0.1"));
}
