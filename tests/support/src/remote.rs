//! Another process that opens the same backend, and adapters that call it.
//!
//! The test `the_other_process` of a binary is the main function of that process. It calls [`serve`].

mod queue;

use crate::child::{ChildProcess, end_with_parent};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_promises::backend::{
    Backend, BackendError, BoxFuture, Bus, BusEvent, BusStream, Change, CompareAndSet, Entry,
    Listed, Page, Revision, Store, WatchStream,
};
use tower_promises::signals::Signals;

/// The environment variable with the address of the backend, for the other process.
const PLACE: &str = "TEST_REMOTE";

/// Another process. It is killed on drop.
pub struct Process {
    child: ChildProcess,
    address: SocketAddr,
}

impl Process {
    /// Starts the test `the_other_process` of this program with the address of a backend.
    pub fn start(place: &str) -> Self {
        Self::start_with(place, &[])
    }

    /// Starts the process with further environment variables.
    pub fn start_with(place: &str, environment: &[(&str, &str)]) -> Self {
        let environment = environment.iter().copied().chain([(PLACE, place)]);
        let (child, address) =
            ChildProcess::start("the_other_process", environment, "listening on ");
        Self {
            child,
            address: address.parse().unwrap(),
        }
    }

    /// Kills the process, as `kill -9` does.
    pub fn kill(self) {
        self.child.kill();
    }

    /// Returns the store and the bus that the process has opened.
    pub fn adapter(&self) -> Remote {
        Remote {
            address: self.address,
            calls: Arc::default(),
        }
    }

    /// Makes the process hold what it was given to [`serve_holding`], until the returned connection is dropped.
    pub async fn hold(&self) -> impl Sized + use<> {
        let mut lines = Lines::connect(self.address).await;
        lines.call::<()>(&Request::Hold).await.unwrap();
        lines
    }

    /// Makes the process count in the key `count` as fast as possible, until it ends.
    pub async fn count(&self) -> impl Sized + use<> {
        let mut lines = Lines::connect(self.address).await;
        lines.call::<()>(&Request::Count).await.unwrap();
        lines
    }

    /// Makes the process wait for a signal. The returned future resolves to the value of the signal.
    pub async fn wait(&self, name: &str) -> impl Future<Output = String> + use<> {
        let mut lines = Lines::connect(self.address).await;
        lines.call::<()>(&Request::Wait(name.into())).await.unwrap();
        async move { lines.receive().await.expect("the process sends the value") }
    }

    pub async fn send(&self, name: &str, value: &str) {
        let mut lines = Lines::connect(self.address).await;
        let send = Request::Send(name.into(), value.into());
        lines.call::<()>(&send).await.unwrap();
    }
}

/// A request to the other process. The answer is a result, which more lines may follow.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Get(String),
    Put(String, Vec<u8>, Option<Duration>),
    CompareAndSet(String, Option<u64>, Vec<u8>, Option<Duration>),
    Delete(String),
    List(String, Option<String>, usize),
    Watch(String),
    Publish(String, Vec<u8>),
    Listen,
    Hold,
    Count,
    Wait(String),
    Send(String, String),
    Queue(queue::Request),
}

#[derive(Debug, Serialize, Deserialize)]
enum Failure {
    InvalidName,
    TooLarge { size: usize, limit: usize },
    TimedOut { after: Duration },
    Full,
    Other(String),
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::InvalidName { .. } => Self::InvalidName,
            BackendError::TooLarge { size, limit, .. } => Self::TooLarge { size, limit },
            BackendError::TimedOut { after, .. } => Self::TimedOut { after },
            BackendError::Full => Self::Full,
            error => Self::Other(format!("{error:?}")),
        }
    }
}

impl From<Failure> for BackendError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::InvalidName => Self::invalid_name("the other process says so"),
            Failure::TooLarge { size, limit } => Self::too_large(size, limit),
            Failure::TimedOut { after } => Self::timed_out(after),
            Failure::Full => Self::Full,
            Failure::Other(text) => Self::unavailable(text),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Event {
    Put(String, Vec<u8>, u64),
    Deleted(String, u64),
    Message(String, Vec<u8>),
    Lagged(u64),
}

/// A connection that carries one JSON value in each line.
struct Lines(tokio::io::BufReader<TcpStream>);

impl Lines {
    async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    async fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(tokio::io::BufReader::new(stream)))
    }

    async fn send(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(value).unwrap();
        line.push(b'\n');
        self.0.write_all(&line).await
    }

    /// Returns `None` at the end of the connection.
    async fn receive<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).await.unwrap_or(0);
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    async fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, BackendError> {
        let unavailable = || BackendError::unavailable("the other process has ended");
        self.send(request).await.map_err(|_| unavailable())?;
        let answer: Option<Result<T, Failure>> = self.receive().await;
        answer.ok_or_else(unavailable)?.map_err(Into::into)
    }

    /// Returns the events of a subscription.
    fn events<E: 'static>(
        self,
        event: fn(Event) -> E,
    ) -> stream::BoxStream<'static, Result<E, BackendError>> {
        stream::unfold(self, move |mut lines| async move {
            let said: Result<Event, Failure> = lines.receive().await?;
            Some((said.map(event).map_err(Into::into), lines))
        })
        .boxed()
    }
}

/// A store and a bus in another process. Clones share one connection.
#[derive(Clone)]
pub struct Remote {
    address: SocketAddr,
    calls: Arc<tokio::sync::Mutex<Option<Lines>>>,
}

impl Remote {
    async fn call<T: DeserializeOwned>(&self, request: Request) -> Result<T, BackendError> {
        let mut calls = self.calls.lock().await;
        if calls.is_none() {
            *calls = Some(Lines::connect(self.address).await);
        }
        calls.as_mut().unwrap().call(&request).await
    }

    async fn subscribe(&self, request: Request) -> Result<Lines, BackendError> {
        let mut lines = Lines::connect(self.address).await;
        lines.call::<()>(&request).await?;
        Ok(lines)
    }
}

impl Store for Remote {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, BackendError>> {
        Box::pin(async {
            let found: Option<(Vec<u8>, u64)> = self.call(Request::Get(key.into())).await?;
            Ok(found.map(|(value, revision)| entry(value, revision)))
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<Revision, BackendError>> {
        let put = Request::Put(key.into(), value.into(), time_to_live);
        Box::pin(async { self.call(put).await.map(Revision::new) })
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Revision>,
        value: Bytes,
        time_to_live: Option<Duration>,
    ) -> BoxFuture<'a, Result<CompareAndSet, BackendError>> {
        let expected = expected.map(Revision::get);
        let set = Request::CompareAndSet(key.into(), expected, value.into(), time_to_live);
        Box::pin(async {
            let set: Option<u64> = self.call(set).await?;
            Ok(set.map_or(CompareAndSet::Conflict, |revision| {
                CompareAndSet::Set(Revision::new(revision))
            }))
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(self.call(Request::Delete(key.into())))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, BackendError>> {
        let list = Request::List(prefix.into(), after.map(Into::into), limit);
        Box::pin(async {
            type Row = (String, Vec<u8>, u64, String);
            let (rows, next): (Vec<Row>, Option<String>) = self.call(list).await?;
            let listed = |(key, value, revision, position): Row| {
                Listed::new(key.into(), entry(value, revision), position.into())
            };
            let entries = rows.into_iter().map(listed).collect();
            Ok(Page::new(entries, next.map(Into::into)))
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<WatchStream, BackendError>> {
        Box::pin(async {
            let lines = self.subscribe(Request::Watch(prefix.into())).await?;
            Ok(lines.events(|event| match event {
                Event::Put(key, value, revision) => Change::Put {
                    key: key.into(),
                    entry: entry(value, revision),
                },
                Event::Deleted(key, revision) => Change::Deleted {
                    key: key.into(),
                    revision: Revision::new(revision),
                },
                Event::Lagged(missed) => Change::Lagged(missed),
                event @ Event::Message(..) => panic!("a watch does not see {event:?}"),
            }))
        })
    }
}

impl Bus for Remote {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.call(Request::Publish(topic.into(), payload.into())))
    }

    fn listen(&self) -> BoxFuture<'_, Result<BusStream, BackendError>> {
        Box::pin(async {
            let lines = self.subscribe(Request::Listen).await?;
            Ok(lines.events(|event| match event {
                Event::Message(topic, payload) => BusEvent::Message {
                    topic: topic.into(),
                    payload: payload.into(),
                },
                Event::Lagged(missed) => BusEvent::Lagged(missed),
                event => panic!("a listener does not hear {event:?}"),
            }))
        })
    }
}

fn entry(value: Vec<u8>, revision: u64) -> Entry {
    Entry::new(value.into(), Revision::new(revision))
}

/// The address of the backend, in the other process.
pub fn place() -> String {
    std::env::var(PLACE).expect("other tests start this one with a backend")
}

/// The main function of the other process. It ends with the process that started it.
pub async fn serve(backend: Backend) {
    serve_holding(backend, || Box::pin(async { Box::new(()) as Held })).await;
}

/// What a process holds for another one, such as a lock.
pub type Held = Box<dyn Send>;

/// [`serve`] for a backend that has something to hold: what the function returns, for [`Process::hold`].
pub async fn serve_holding(backend: Backend, hold: fn() -> BoxFuture<'static, Held>) {
    end_with_parent();
    let signals = Signals::new(backend.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut lines = Lines(tokio::io::BufReader::new(stream));
        let (backend, signals) = (backend.clone(), signals.clone());
        tokio::spawn(async move {
            while let Some(request) = lines.receive().await {
                if !answer(request, &mut lines, &backend, &signals, hold).await {
                    return;
                }
            }
        });
    }
}

/// Executes a request. Returns whether the connection accepts further requests.
async fn answer(
    request: Request,
    lines: &mut Lines,
    backend: &Backend,
    signals: &Signals,
    hold: fn() -> BoxFuture<'static, Held>,
) -> bool {
    let (store, bus) = (backend.store(), backend.bus());
    let sent = match request {
        Request::Get(key) => {
            let found = store.get(&key).await;
            let found = found
                .map(|found| found.map(|entry| (Vec::from(entry.value), entry.revision.get())));
            lines.send(&found.map_err(Failure::from)).await
        }
        Request::Put(key, value, time_to_live) => {
            let put = store.put(&key, value.into(), time_to_live).await;
            lines
                .send(&put.map(Revision::get).map_err(Failure::from))
                .await
        }
        Request::CompareAndSet(key, expected, value, time_to_live) => {
            let expected = expected.map(Revision::new);
            let set = store.compare_and_set(&key, expected, value.into(), time_to_live);
            let set = set.await.map(|set| match set {
                CompareAndSet::Set(revision) => Some(revision.get()),
                CompareAndSet::Conflict => None,
            });
            lines.send(&set.map_err(Failure::from)).await
        }
        Request::Delete(key) => {
            let deleted = store.delete(&key).await;
            lines.send(&deleted.map_err(Failure::from)).await
        }
        Request::List(prefix, after, limit) => {
            let page = store.list(&prefix, after.as_deref(), limit).await;
            let page = page.map(|page| {
                let rows = page.entries.into_iter().map(|listed| {
                    let (value, revision) = (listed.entry.value, listed.entry.revision);
                    let key = listed.key.to_string();
                    let position = listed.position.to_string();
                    (key, Vec::from(value), revision.get(), position)
                });
                let rows: Vec<_> = rows.collect();
                (rows, page.next.map(|next| next.to_string()))
            });
            lines.send(&page.map_err(Failure::from)).await
        }
        Request::Publish(topic, payload) => {
            let published = bus.publish(&topic, payload.into()).await;
            lines.send(&published.map_err(Failure::from)).await
        }
        Request::Watch(prefix) => {
            let changes = store.watch(&prefix).await;
            let changes = changes.map(|changes| {
                let events = changes.map(|change| {
                    change.map(|change| match change {
                        Change::Put { key, entry } => {
                            Event::Put((*key).into(), entry.value.into(), entry.revision.get())
                        }
                        Change::Deleted { key, revision } => {
                            Event::Deleted((*key).into(), revision.get())
                        }
                        Change::Lagged(missed) => Event::Lagged(missed),
                        change => panic!("{change:?} is new"),
                    })
                });
                events.boxed()
            });
            tell(lines, changes).await;
            return false;
        }
        Request::Listen => {
            let events = bus.listen().await;
            let events = events.map(|events| {
                let events = events.map(|event| {
                    event.map(|event| match event {
                        BusEvent::Message { topic, payload } => {
                            Event::Message((*topic).into(), payload.into())
                        }
                        BusEvent::Lagged(missed) => Event::Lagged(missed),
                        event => panic!("{event:?} is new"),
                    })
                });
                events.boxed()
            });
            tell(lines, events).await;
            return false;
        }
        Request::Hold => {
            let _held = hold().await;
            lines.send(&Ok::<_, Failure>(())).await.unwrap();
            // Holds until the other side disconnects.
            let end: Option<()> = lines.receive().await;
            assert_eq!(end, None);
            return false;
        }
        Request::Queue(request) => {
            queue::answer(request, lines, backend.clone()).await;
            return false;
        }
        Request::Count => {
            lines.send(&Ok::<_, Failure>(())).await.unwrap();
            for count in 1_u64.. {
                let value = count.to_string();
                store
                    .put("count", value.clone().into(), None)
                    .await
                    .unwrap();
                bus.publish("count", value.into()).await.unwrap();
            }
            return false;
        }
        Request::Wait(name) => {
            signals.listen().await.unwrap();
            let wait = signals.wait::<String>(&name);
            lines.send(&Ok::<_, Failure>(())).await.unwrap();
            lines.send(&wait.await.unwrap()).await
        }
        Request::Send(name, value) => {
            signals.send(&name, &value).await.unwrap();
            lines.send(&Ok::<_, Failure>(())).await
        }
    };
    sent.is_ok()
}

/// Confirms a subscription and sends its events, until the other side disconnects.
async fn tell(
    lines: &mut Lines,
    events: Result<stream::BoxStream<'static, Result<Event, BackendError>>, BackendError>,
) {
    let mut events = match events {
        Ok(events) => events,
        Err(error) => return drop(lines.send(&Err::<(), _>(Failure::from(error))).await),
    };
    let _ = lines.send(&Ok::<_, Failure>(())).await;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            end = lines.receive::<()>() => return assert_eq!(end, None),
        };
        let Some(event) = event else { return };
        if lines.send(&event.map_err(Failure::from)).await.is_err() {
            return;
        }
    }
}
