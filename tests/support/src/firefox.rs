//! Firefox for tests: headless, controlled by WebDriver `BiDi`, which needs no driver.

use crate::browser::Process;
use crate::eventually::{eventually, line_after, soon};
use futures_util::{SinkExt, StreamExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A browser with a profile of its own. Dropping it ends its processes, also during a panic.
#[derive(Debug)]
pub struct Firefox {
    // Fields drop in this order.
    socket: Mutex<WebSocketStream<MaybeTlsStream<TcpStream>>>,
    /// The tab.
    context: String,
    _process: Process,
    _files: TempDir,
}

impl Firefox {
    /// Starts a headless browser without history.
    pub async fn start() -> Self {
        let files = TempDir::new().unwrap();
        let mut process = Process(
            Command::new("firefox")
                .args(["--headless", "--no-remote", "--remote-debugging-port=0"])
                .arg("--profile")
                .arg(files.path())
                .env("HOME", files.path())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("firefox starts: `.ci/install` installs it"),
        );
        let url = line_after(
            "WebDriver BiDi listening on ",
            process.0.stderr.take().unwrap(),
        );
        let (socket, _) = soon(connect_async(format!("{url}/session"))).await.unwrap();
        let mut browser = Self {
            socket: Mutex::new(socket),
            context: String::new(),
            _process: process,
            _files: files,
        };
        browser
            .command("session.new", json!({ "capabilities": {} }))
            .await;
        let tree = browser.command("browsingContext.getTree", json!({})).await;
        browser.context = tree["contexts"][0]["context"].as_str().unwrap().to_owned();
        browser
    }

    /// Begins to open a page, and returns when its first bytes have arrived.
    pub async fn begin(&self, url: &str) {
        let page = json!({ "context": self.context, "url": url, "wait": "none" });
        self.command("browsingContext.navigate", page).await;
    }

    /// Returns the value of a JavaScript expression that can be written as JSON.
    pub async fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> T {
        let answer = self
            .command(
                "script.evaluate",
                json!({
                    "expression": format!("JSON.stringify({expression})"),
                    "target": { "context": self.context },
                    "awaitPromise": false,
                }),
            )
            .await;
        let json = answer["result"]["value"].as_str();
        let json = json.unwrap_or_else(|| panic!("{expression}: {answer}"));
        serde_json::from_str(json).unwrap()
    }

    /// Waits until a JavaScript expression is true.
    pub async fn until(&self, expression: &str) {
        let is_true =
            async || (self.evaluate::<Value>(expression).await == Value::Bool(true)).then_some(());
        eventually(expression, is_true).await;
    }

    /// Sends a command and returns its result.
    async fn command(&self, method: &str, parameters: Value) -> Value {
        let command = json!({ "id": 1, "method": method, "params": parameters });
        let mut socket = self.socket.lock().await;
        soon(socket.send(Message::text(command.to_string())))
            .await
            .unwrap();
        // Commands run one after another, so the next message with an id is the answer.
        loop {
            let message = soon(socket.next()).await.unwrap().unwrap();
            let Message::Text(message) = message else {
                continue;
            };
            let mut answer: Value = serde_json::from_str(&message).unwrap();
            if answer["id"].is_null() {
                continue;
            }
            assert_eq!(answer["type"], "success", "{command}: {answer}");
            return answer["result"].take();
        }
    }
}
