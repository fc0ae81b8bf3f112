//! A real browser for tests: headless Chromium, controlled through chromedriver.

use crate::example::profile_directory;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use thirtyfour::{
    CapabilitiesHelper, ChromiumLikeCapabilities, DesiredCapabilities, LoggingPrefsLogLevel,
    PageLoadStrategy, TypingData, WebDriver, WindowHandle,
};
use tokio::time::{Instant, sleep};

/// The timeout of every browser operation. It is long enough for a busy machine that is five times slower.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The interval at which a condition in the browser is checked.
const INTERVAL: Duration = Duration::from_millis(20);

/// A browser with a profile of its own. Dropping it ends its processes, also during a panic.
#[derive(Debug)]
pub struct Browser {
    // Fields drop in this order.
    driver: WebDriver,
    _process: Process,
    _files: TempDir,
}

impl Browser {
    /// Starts a headless browser without history.
    pub async fn start() -> Self {
        Self::start_with(PageLoadStrategy::Normal).await
    }

    /// Starts a browser that does not wait for the end of pages. [`begin`](Self::begin) opens them.
    pub async fn start_for_streams() -> Self {
        Self::start_with(PageLoadStrategy::None).await
    }

    async fn start_with(strategy: PageLoadStrategy) -> Self {
        let files = TempDir::new().unwrap();
        let (process, url) = Process::start(files.path());
        let mut capabilities = DesiredCapabilities::chrome();
        capabilities
            .set_browser_log_level(LoggingPrefsLogLevel::All)
            .unwrap();
        capabilities.set_page_load_strategy(strategy).unwrap();
        let user_data = format!("--user-data-dir={}", files.path().join("profile").display());
        for argument in [
            "--headless",
            // Containers often lack the features that the sandbox needs. The tests only load their own pages.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // Names other than localhost, which browsers consider insecure over HTTP.
            "--host-resolver-rules=MAP *.test 127.0.0.1",
            // Ends the browser together with its driver.
            "--remote-debugging-pipe",
            &user_data,
        ] {
            capabilities.add_arg(argument).unwrap();
        }
        // Without idle connections, because the request that ends the driver may run after their runtime has stopped.
        let client = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .timeout(PATIENCE)
            .no_proxy()
            .build()
            .unwrap();
        let driver = WebDriver::builder(url, capabilities).client(client);
        let driver = driver
            .await
            .expect("the browser starts: `.ci/install` installs it");
        Self {
            driver,
            _process: process,
            _files: files,
        }
    }

    /// Returns the driver, for further operations.
    pub fn driver(&self) -> &WebDriver {
        &self.driver
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.driver.goto(url).await.unwrap();
    }

    /// Begins to open a page, and returns when its first bytes have arrived.
    pub async fn begin(&self, url: &str) {
        self.devtools("Page.navigate", json!({ "url": url })).await;
    }

    /// Opens another tab and shows it.
    pub async fn open_tab(&self) -> WindowHandle {
        let tab = self.driver.new_tab().await.unwrap();
        self.show(&tab).await;
        tab
    }

    /// Shows a tab and hides the others. Later calls act on this tab.
    pub async fn show(&self, tab: &WindowHandle) {
        self.driver.switch_to_window(tab.clone()).await.unwrap();
    }

    /// Keeps the tab visible while others are shown, like windows side by side.
    pub async fn keep_visible(&self) {
        let enabled = json!({ "enabled": true });
        self.devtools("Emulation.setFocusEmulationEnabled", enabled)
            .await;
    }

    /// Returns the title of a tab without changing its visibility.
    pub async fn title(&self, tab: &WindowHandle) -> String {
        let targets = self.devtools("Target.getTargets", json!({})).await;
        let id = tab.to_string();
        let target = targets["targetInfos"].as_array().unwrap().iter();
        let target = target.clone().find(|target| id == target["targetId"]);
        target.unwrap()["title"].as_str().unwrap().to_owned()
    }

    /// Waits until a tab has a title, without changing its visibility.
    pub async fn until_title(&self, tab: &WindowHandle, title: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = self.title(tab).await;
            if last == title {
                return;
            }
            assert!(Instant::now() < deadline, "{last} never becomes {title}");
            sleep(INTERVAL).await;
        }
    }

    /// Returns the current URL.
    pub async fn url(&self) -> String {
        self.driver.current_url().await.unwrap().into()
    }

    /// Presses a key, or types a text, in the focused element.
    pub async fn press(&self, keys: impl Into<TypingData>) {
        let keyboard = self.driver.action_chain().send_keys(keys);
        keyboard.perform().await.unwrap();
    }

    /// Enables or disables scripts in pages that are opened from now on.
    pub async fn allow_scripts(&self, allowed: bool) {
        let disabled = json!({ "value": !allowed });
        self.devtools("Emulation.setScriptExecutionDisabled", disabled)
            .await;
    }

    /// Connects or disconnects the network, except for [`open`](Self::open).
    pub async fn online(&self, online: bool) {
        let conditions = json!({
            "offline": !online, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        self.devtools("Network.enable", json!({})).await;
        self.devtools("Network.emulateNetworkConditions", conditions)
            .await;
    }

    /// Sets user preferences, such as `[("prefers-color-scheme", "dark")]`.
    pub async fn prefer(&self, preferences: &[(&str, &str)]) {
        let features: Vec<_> = preferences
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let media = json!({ "features": features });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// Sets the size of the viewport, in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// Returns the value of a JavaScript expression. Neither a security policy of the page nor disabled scripts affect
    /// the evaluation.
    pub async fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> T {
        let value = self.try_evaluate(expression).await;
        let value = value.unwrap_or_else(|error| panic!("{expression}: {error}"));
        serde_json::from_value(value).unwrap()
    }

    /// Returns what a screen reader finds in the page, in its order: roles with names, such as `heading "Tea"`. `busy`
    /// follows elements that say that their content is changing.
    pub async fn accessible(&self) -> Vec<String> {
        let tree = self.devtools("Accessibility.getFullAXTree", json!({}));
        let tree = tree.await;
        let nodes = tree["nodes"].as_array().unwrap();
        let mut lines = Vec::new();
        let mut rest = vec![&nodes[0]];
        while let Some(node) = rest.pop() {
            let children = node["childIds"].as_array().into_iter().flatten();
            let children = children.filter_map(|id| nodes.iter().find(|it| it["nodeId"] == *id));
            let at = rest.len();
            rest.extend(children);
            rest[at..].reverse();
            let [role, name] = ["role", "name"].map(|it| node[it]["value"].as_str());
            let (Some(role), Some(name)) = (role, name) else {
                continue;
            };
            let mut properties = node["properties"].as_array().into_iter().flatten();
            let is_busy = properties.any(|it| it["name"] == "busy" && it["value"]["value"] == 1);
            if node["ignored"] == false && role != "InlineTextBox" {
                let busy = if is_busy { " busy" } else { "" };
                lines.push(format!("{role} {name:?}{busy}"));
            }
        }
        lines
    }

    /// Waits until a JavaScript expression is true, also across navigation.
    pub async fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // An error may be temporary: expressions fail during navigation.
            let last = self.try_evaluate(expression).await;
            if last == Ok(Value::Bool(true)) {
                return;
            }
            if Instant::now() > deadline {
                let page = self.driver.source().await.unwrap();
                panic!("{expression} never becomes true, but is {last:?} in {page}");
            }
            sleep(INTERVAL).await;
        }
    }

    /// Returns the messages of the browser's log since the last call: script errors, violations of security policies,
    /// failed requests.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.driver.browser_log().await.unwrap();
        entries
            .into_iter()
            .filter(|entry| ["SEVERE", "WARNING"].contains(&entry.level.as_str()))
            .map(|entry| entry.message)
            // Ignores messages about internal pages of the browser, such as the first tab.
            .filter(|message| !message.starts_with("chrome://"))
            .collect()
    }

    /// Saves a screenshot of the page in `target/tmp`, for manual inspection.
    pub async fn screenshot(&self, name: &str) -> PathBuf {
        let path = profile_directory()
            .with_file_name("tmp")
            .join(format!("{name}.png"));
        self.driver.screenshot(&path).await.unwrap();
        path
    }

    async fn try_evaluate(&self, expression: &str) -> Result<Value, String> {
        let parameters =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let devtools = self.driver.cdp();
        let answer = devtools.send_raw("Runtime.evaluate", parameters).await;
        let mut answer = answer.map_err(|error| error.to_string())?;
        match answer.get("exceptionDetails") {
            Some(exception) => Err(exception.to_string()),
            None => Ok(answer["result"]["value"].take()),
        }
    }

    /// Sends a command of the `DevTools` protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let devtools = self.driver.cdp();
        devtools.send_raw(command, parameters).await.unwrap()
    }
}

/// A process that ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Starts the driver on a free port and reads the port from its output. The driver and the browser write only to
    /// `files`.
    fn start(files: &Path) -> (Self, String) {
        let child = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", files)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts: `.ci/install` installs it");
        let mut process = Self(child);
        let output = BufReader::new(process.0.stdout.take().unwrap());
        let (sender, port) = mpsc::channel();
        // Read to the end, because the process would block on a full pipe.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let port = line.split_once("started successfully on port ");
                if let Some((_, port)) = port {
                    let _ = sender.send(port.trim_end_matches('.').to_owned());
                }
            }
        });
        let port = port
            .recv_timeout(PATIENCE)
            .expect("chromedriver prints its port");
        (process, format!("http://127.0.0.1:{port}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
