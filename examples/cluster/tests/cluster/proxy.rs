//! The proxy of the example `cluster`, in front of instances that close connections.

use futures_util::stream;
use reqwest::{Body, Method, Response};
use std::sync::{Arc, Mutex};
use test_support::example::{Example, soon};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The behaviour of an instance after it has read a request.
#[derive(Clone, Copy)]
enum Then {
    Answers,
    Closes,
    BreaksOff,
}

/// An instance, and the requests that it has read.
struct Instance {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Instance {
    async fn start(then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let seen = requests.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read(&mut stream).await;
                seen.lock().unwrap().push(request);
                let answer = match then {
                    Then::Answers => "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nanswer",
                    Then::Closes => "",
                    Then::BreaksOff => "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nans",
                };
                // The proxy may have disconnected.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, requests }
    }

    /// Returns the requests since the last call.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// Reads a request. Returns its first line and its body.
async fn read(stream: &mut TcpStream) -> String {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    let mut body = String::from_utf8(body).unwrap();
    if head.contains("transfer-encoding: chunked") {
        while !body.ends_with("0\r\n\r\n") {
            stream.read_line(&mut body).await.unwrap();
        }
    }
    format!("{} {body}", head.lines().next().unwrap())
}

fn proxy<const N: usize>(addresses: [&str; N]) -> Example {
    Example::start_role(
        env!("CARGO_BIN_EXE_cluster"),
        &[&["proxy"], &addresses[..]].concat(),
    )
}

async fn ask(proxy: &Example, method: Method, body: impl Into<Body>) -> Response {
    let request = proxy.client.request(method, &proxy.url).body(body);
    soon(request.send()).await.unwrap()
}

/// Returns an address at which nothing listens while the socket exists.
fn closed() -> (String, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().to_string(), socket)
}

/// Returns a body that is too large for the proxy to keep.
fn large() -> String {
    "x".repeat(100_000)
}

#[tokio::test]
async fn an_idempotent_request_without_an_answer_goes_to_the_next_instance() {
    let [closing, other] = [
        Instance::start(Then::Closes).await,
        Instance::start(Then::Answers).await,
    ];
    let proxy = proxy([&closing.address, &other.address]);
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        // Each instance is the first in turn.
        for turn in [1, 0] {
            let answer = ask(&proxy, method.parse().unwrap(), "body").await;
            assert_eq!(answer.status(), 200, "{method}");
            let request = format!("{} / http/1.1 body", method.to_ascii_lowercase());
            assert_eq!(closing.requests(), vec![request.clone(); turn]);
            assert_eq!(other.requests(), [request]);
        }
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_handled_is_not_sent_again() {
    let [closing, other] = [
        Instance::start(Then::Closes).await,
        Instance::start(Then::Answers).await,
    ];
    let proxy = proxy([&closing.address, &other.address]);
    let chunks = || Body::wrap_stream(stream::iter([Ok::<_, std::io::Error>("chunk")]));
    let bodies: [(_, fn() -> Body); 3] = [
        (Method::POST, || "body".into()),
        (Method::PATCH, || "body".into()),
        (Method::PUT, || large().into()),
    ];
    let requests = bodies.map(|(method, body)| (method, body()));
    for (method, body) in requests.into_iter().chain([(Method::PUT, chunks())]) {
        let answer = ask(&proxy, method.clone(), body).await;
        assert_eq!(answer.status(), 502, "{method}");
        assert_eq!(answer.text().await.unwrap(), "no instance has answered\n");
        assert_eq!(closing.requests().len(), 1);
        assert_eq!(other.requests().len(), 0, "{method}");
        // This request starts at the other instance.
        let answer = ask(&proxy, method, "body").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(other.requests().len(), 1);
    }
}

#[tokio::test]
async fn any_request_that_was_not_sent_goes_to_the_next_instance() {
    let (address, _socket) = closed();
    let instance = Instance::start(Then::Answers).await;
    let proxy = proxy([&address, &instance.address]);
    for turn in 0..4 {
        let answer = ask(&proxy, Method::POST, large()).await;
        assert_eq!(answer.status(), 200, "{turn}");
        let [request] = &instance.requests()[..] else {
            panic!("the request is sent once");
        };
        assert_eq!(*request, format!("post / http/1.1 {}", large()));
    }
}

#[tokio::test]
async fn each_instance_is_tried_once() {
    let instances = [
        Instance::start(Then::Closes).await,
        Instance::start(Then::Closes).await,
    ];
    let proxy = proxy([&instances[0].address, &instances[1].address]);
    assert_eq!(ask(&proxy, Method::GET, "").await.status(), 502);
    for instance in &instances {
        assert_eq!(instance.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_request_with_a_partial_answer_is_not_sent_again() {
    let [breaking, other] = [
        Instance::start(Then::BreaksOff).await,
        Instance::start(Then::Answers).await,
    ];
    let proxy = proxy([&breaking.address, &other.address]);
    let answer = ask(&proxy, Method::GET, "").await;
    assert_eq!(answer.status(), 200);
    soon(answer.text()).await.unwrap_err();
    assert_eq!(other.requests().len(), 0);
}
