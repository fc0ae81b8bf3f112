//! Pages over real sockets.

use crate::stacks::{Gate, app, read_until, request, rest, shell, soon};
use crate::support::{problems, without_grace};
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use test_support::{Counter, Log};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_promises::Promises;

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test]
async fn http_1_sends_the_page_before_its_fragments() {
    let gate = Gate::closed();
    let address = serve(app(&gate, 10).layer(without_grace())).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: a\r\naccept: text/html\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains("<?end>") {
        let mut buffer = [0; 1024];
        let length = soon(stream.read(&mut buffer)).await.unwrap();
        assert_ne!(length, 0, "the connection was closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    let head = text.to_ascii_lowercase();
    assert!(
        head.contains("transfer-encoding: chunked") && head.contains("incremental: ?1"),
        "{head}"
    );
    assert!(
        !head.contains("content-length") && head.contains("set-cookie: seen=1"),
        "{head}"
    );
    // With the sign, because the time in the head may have the number.
    assert!(!text.contains("42 €"));
    gate.open();
    let mut rest = String::new();
    soon(stream.read_to_string(&mut rest)).await.unwrap();
    assert!(
        rest.contains("<template for=\"tp1\"><b>42 €</b>xxxxxxxxxx</template>\n</body></html>"),
        "{rest}"
    );
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
}

#[tokio::test]
async fn http_1_0_head_and_other_clients_get_the_whole_page() {
    let log = Log::start();
    let gate = Gate::closed();
    (0..3).for_each(|_| gate.open());
    let address = serve(app(&gate, 0).layer(without_grace())).await;
    let exchange = async |request: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        soon(stream.read_to_string(&mut text)).await.unwrap();
        text.to_ascii_lowercase()
    };
    let page = "<html><body><h1>tea</h1><b>42 €</b></body></html>";
    let old = exchange("GET / HTTP/1.0\r\naccept: text/html\r\n\r\n").await;
    let other = "GET / HTTP/1.1\r\nhost: a\r\naccept: */*\r\nconnection: close\r\n\r\n";
    for text in [old, exchange(other).await] {
        assert!(text.ends_with(page), "{text}");
        assert!(
            text.contains(&format!("content-length: {}\r\n", page.len())),
            "{text}"
        );
    }
    let head = "HEAD / HTTP/1.1\r\nhost: a\r\naccept: text/html\r\nconnection: close\r\n\r\n";
    let head = exchange(head).await;
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert!(problems(&log).is_empty(), "{:?}", problems(&log));
}

#[tokio::test]
async fn http_2_sends_large_fragments_through_a_small_window() {
    const SIZE: usize = 100_000;
    let gate = Gate::closed();
    let address = serve(app(&gate, SIZE).layer(without_grace())).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(1_000)
        .initial_connection_window_size(65_535);
    let (mut client, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = request().uri(format!("http://{address}/"));
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = soon(client.send_request(request)).await.unwrap();
    assert_eq!(response.headers()["incremental"], "?1");
    let mut body = response.into_body();
    assert_eq!(read_until(&mut body, "<?end>").await, shell());
    gate.open();
    let end = soon(body.collect()).await.unwrap().to_bytes();
    assert_eq!(end.len(), rest(SIZE).len());
    assert!(end == rest(SIZE));
}

#[tokio::test]
async fn a_client_that_closes_its_connection_drops_the_fragments() {
    let dropped = Counter::default();
    let counted = dropped.clone();
    let page = async move |promises: Promises| {
        let guard = counted.on_drop();
        let hanging = promises.fragment("hanging", "…", move |promises| {
            let _ = &guard;
            promises.result_or_submit("hanging", std::future::pending::<String>)
        });
        Html(hanging.to_string())
    };
    let address = serve(Router::new().route("/", get(page)).layer(without_grace())).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: a\r\naccept: text/html\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("<?end>") {
        assert_ne!(soon(stream.read_buf(&mut text)).await.unwrap(), 0);
    }
    assert_eq!(dropped.get(), 0);
    drop(stream);
    test_support::eventually::until("the fragment is dropped:", async || dropped.get() == 1).await;
}
