//! A real browser for tests: Chromium without a window, driven by its own driver.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;
use thirtyfour::{
    ChromiumLikeCapabilities, DesiredCapabilities, LoggingPrefsLogLevel, TypingData, WebDriver,
    WindowHandle,
};
use tokio::time::{Instant, sleep};

/// How long anything in the browser may take. A machine that is five times slower and busy must not reach it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often the browser is asked whether something holds.
const INTERVAL: Duration = Duration::from_millis(20);

/// A browser with a profile of its own. Dropping it, also while a test panics, ends its processes.
#[derive(Debug)]
pub struct Browser {
    // In the order in which they are to be dropped.
    driver: WebDriver,
    process: Process,
    files: TempDir,
}

impl Browser {
    /// Starts a browser that has no window and no history.
    pub async fn start() -> Self {
        let files = TempDir::new().unwrap();
        let (process, url) = Process::start(files.path());
        let mut capabilities = DesiredCapabilities::chrome();
        capabilities
            .set_browser_log_level(LoggingPrefsLogLevel::All)
            .unwrap();
        let user_data = format!("--user-data-dir={}", files.path().join("profile").display());
        for argument in [
            "--headless",
            // Containers often have none of what the sandbox needs. The pages are our own.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            // Sites with a name that is not the machine's own: what a browser takes for insecure over HTTP.
            "--host-resolver-rules=MAP *.test 127.0.0.1",
            // The browser ends with its driver.
            "--remote-debugging-pipe",
            &user_data,
        ] {
            capabilities.add_arg(argument).unwrap();
        }
        // Without idle connections: the driver is also told to end when the runtime of the idle ones stands still.
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
            process,
            files,
        }
    }

    /// What else a driver can do.
    pub fn driver(&self) -> &WebDriver {
        &self.driver
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.driver.goto(url).await.unwrap();
    }

    /// Opens another tab and shows it.
    pub async fn open_tab(&self) -> WindowHandle {
        let tab = self.driver.new_tab().await.unwrap();
        self.show(&tab).await;
        tab
    }

    /// Shows a tab, which hides the others. What is done from now on is done there.
    pub async fn show(&self, tab: &WindowHandle) {
        self.driver.switch_to_window(tab.clone()).await.unwrap();
    }

    /// Lets the tab be visible also while others are shown, as windows side by side are.
    pub async fn keep_visible(&self) {
        let enabled = json!({ "enabled": true });
        self.devtools("Emulation.setFocusEmulationEnabled", enabled)
            .await;
    }

    /// The title of a tab, which stays as hidden as it is.
    pub async fn title(&self, tab: &WindowHandle) -> String {
        let targets = self.devtools("Target.getTargets", json!({})).await;
        let id = tab.to_string();
        let target = targets["targetInfos"].as_array().unwrap().iter();
        let target = target.clone().find(|target| id == target["targetId"]);
        target.unwrap()["title"].as_str().unwrap().to_owned()
    }

    /// Waits for a title of a tab, which stays as hidden as it is.
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

    /// Where the browser is now.
    pub async fn url(&self) -> String {
        self.driver.current_url().await.unwrap().into()
    }

    /// Presses a key, or types a text, where the focus is.
    pub async fn press(&self, keys: impl Into<TypingData>) {
        let keyboard = self.driver.action_chain().send_keys(keys);
        keyboard.perform().await.unwrap();
    }

    /// Whether the pages that are opened from now on may run scripts.
    pub async fn allow_scripts(&self, allowed: bool) {
        let disabled = json!({ "value": !allowed });
        self.devtools("Emulation.setScriptExecutionDisabled", disabled)
            .await;
    }

    /// Whether the network is there, for all but [`open`](Self::open).
    pub async fn online(&self, online: bool) {
        let conditions = json!({
            "offline": !online, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        self.devtools("Network.enable", json!({})).await;
        self.devtools("Network.emulateNetworkConditions", conditions)
            .await;
    }

    /// What the user prefers, such as `[("prefers-color-scheme", "dark")]`.
    pub async fn prefer(&self, preferences: &[(&str, &str)]) {
        let features: Vec<_> = preferences
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let media = json!({ "features": features });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// How large the page is seen, in CSS pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// The value of a JavaScript expression, whatever the page's security policy, and also where the page itself
    /// may not run scripts.
    pub async fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> T {
        let value = self.try_evaluate(expression).await;
        let value = value.unwrap_or_else(|error| panic!("{expression}: {error}"));
        serde_json::from_value(value).unwrap()
    }

    /// Waits until a JavaScript expression is true, on whatever page the browser is by then.
    pub async fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // An error, too, may pass: while a page is being left, nothing can be asked of it.
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

    /// What the browser has complained about since the last call: errors of scripts, violations of security policies,
    /// requests that have failed.
    pub async fn complaints(&self) -> Vec<String> {
        let entries = self.driver.browser_log().await.unwrap();
        entries
            .into_iter()
            .filter(|entry| ["SEVERE", "WARNING"].contains(&entry.level.as_str()))
            .map(|entry| entry.message)
            // Those of the browser's own pages are its own: the first tab shows one.
            .filter(|message| !message.starts_with("chrome://"))
            .collect()
    }

    /// Keeps a picture of the page, for people to look at, in `target/tmp`.
    pub async fn screenshot(&self, name: &str) -> PathBuf {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
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

    /// Sends a command of the protocol that the developer tools use.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let devtools = self.driver.cdp();
        devtools.send_raw(command, parameters).await.unwrap()
    }
}

/// The process of the driver.
#[derive(Debug)]
struct Process(Child);

impl Process {
    /// Starts the driver on a free port and reads from its output where it listens. It and the browser leave
    /// nothing behind but in `files`.
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
        // To the end, or the process could not write.
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
            .expect("chromedriver says where it listens");
        (process, format!("http://127.0.0.1:{port}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
