//! The HTTP client of webhooks: one connection for each request, to an address that was checked. It knows no proxies and
//! follows no redirects.

use super::sender::{Settings, Target};
use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tower_promises_backend::BoxError;

/// The largest head of a response.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long the body of a response is read. It is ignored, but an early end of the connection would look like an error
/// to the receiver.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// The answer of a receiver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
}

/// The reason why there is no answer.
#[derive(Debug)]
pub(super) enum SendError {
    /// The receiver has addresses, and none of them is allowed.
    Refused,
    /// Another attempt may succeed.
    Failed(&'static str, BoxError),
    TimedOut(Duration),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("the receiver has no address that is allowed"),
            Self::Failed(what, _) => f.write_str(what),
            Self::TimedOut(after) => write!(f, "the receiver did not answer within {after:?}"),
        }
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(_, error) => Some(&**error),
            _ => None,
        }
    }
}

/// Sends a POST request. `headers` are all headers but those that the connection needs.
pub(super) async fn post(
    settings: &Settings,
    target: &Target,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Reply, SendError> {
    let after = settings.timeout;
    let (reply, body, _connection) = timeout(after, exchange(settings, target, headers, body))
        .await
        .unwrap_or(Err(SendError::TimedOut(after)))?;
    let _ = timeout(BODY_PATIENCE, read(body, settings.max_response_bytes)).await;
    Ok(reply)
}

/// The task that drives a connection. Dropping it closes the connection.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange(
    settings: &Settings,
    target: &Target,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(Reply, Incoming, Connection), SendError> {
    let stream = connect(settings, target).await?;
    if !target.is_tls {
        return send(stream, target, headers, body).await;
    }
    let tls = |error: BoxError| SendError::Failed("the receiver cannot be authenticated", error);
    let name = ServerName::try_from(target.host.clone()).map_err(|error| tls(error.into()))?;
    let connector = TlsConnector::from(settings.tls.clone());
    let stream = connector.connect(name, stream).await;
    send(
        stream.map_err(|error| tls(error.into()))?,
        target,
        headers,
        body,
    )
    .await
}

/// Connects to the first address that is allowed and answers.
async fn connect(settings: &Settings, target: &Target) -> Result<TcpStream, SendError> {
    let addresses = lookup_host((target.host.as_str(), target.port)).await;
    let addresses = addresses
        .map_err(|error| SendError::Failed("the receiver's name has no address", error.into()))?;
    // The check and the connection use the same addresses, so a name cannot point elsewhere in between.
    let allowed = |address: &SocketAddr| settings.allows_address(address.ip());
    let mut failed = None;
    for address in addresses.filter(allowed) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = Some(error),
        }
    }
    let error: io::Error = failed.ok_or(SendError::Refused)?;
    Err(SendError::Failed(
        "the receiver cannot be reached",
        error.into(),
    ))
}

async fn send<S>(
    stream: S,
    target: &Target,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(Reply, Incoming, Connection), SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: BoxError| SendError::Failed("the request was not answered", error);
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(error.into()))?;
    let connection = Connection(tokio::spawn(async move {
        // Its errors are those of the request.
        let _ = connection.await;
    }));
    let path = target
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .body(Full::new(body))
        .map_err(|error| failed(error.into()))?;
    *request.headers_mut() = headers;
    if let Some(authority) = target.uri.authority() {
        let host = authority.as_str().try_into();
        let host = host.map_err(|error: http::header::InvalidHeaderValue| failed(error.into()))?;
        request.headers_mut().insert(HOST, host);
    }
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(error.into()))?;
    let reply = Reply {
        status: response.status(),
        retry_after: retry_after(response.headers()),
    };
    Ok((reply, response.into_body(), connection))
}

/// Reads a body, at most this many bytes of it.
async fn read(mut body: Incoming, limit: usize) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes >= limit {
            return;
        }
    }
}

/// Parses `Retry-After`: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
