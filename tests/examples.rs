//! The examples as a user meets them: started as processes, used over HTTP.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

/// A running example. Killed when it is dropped.
struct Example {
    process: Child,
    url: String,
    client: reqwest::Client,
}

impl Example {
    /// Starts an example on a free port and reads from its output where it listens.
    fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    fn start_with(name: &str, environment: &[(&str, &std::path::Path)]) -> Self {
        let mut process = Command::new(binary(name))
            .env("ADDR", "127.0.0.1:0")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let url = line.trim().split_once("listening on ").unwrap().1;
        let url = url.split(',').next().unwrap().to_owned();
        // Nobody reads the rest, but the process must be able to write it.
        std::thread::spawn(move || std::io::copy(&mut output.by_ref(), &mut std::io::sink()));
        Self {
            process,
            url,
            client: reqwest::Client::new(),
        }
    }

    async fn get(&self, path: &str) -> String {
        let response = self.client.get(format!("{}{path}", self.url)).send().await;
        response
            .unwrap()
            .error_for_status()
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    async fn post(&self, path: &str, body: &'static str) -> (u16, String) {
        let request = self.client.post(format!("{}{path}", self.url)).body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Builds the examples, which is no work where `cargo test` has done it, and says where one is.
fn binary(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        let build = Command::new(env!("CARGO"))
            .args(["build", "--examples", "--quiet"])
            .status();
        assert!(build.unwrap().success());
    });
    // This test is in `target/debug/deps`, the examples are in `target/debug/examples`.
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("examples").join(name)
}

/// Waits for something that another process does, and fails rather than wait for ever.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap();
}

#[tokio::test]
async fn quickstart() {
    let example = Example::start("quickstart");
    assert_eq!(
        example.get("/users/42").await,
        "Hello, User 42!\nYou have 7 messages.\n"
    );
}

#[tokio::test]
async fn hyper() {
    let example = Example::start("hyper");
    assert_eq!(
        example.post("/", "das ist ein Text").await,
        (200, "German\n".into())
    );
    assert_eq!(
        example.post("/", "this is a text").await,
        (200, "English\n".into())
    );
    assert_eq!(
        example.post("/", " ").await,
        (500, "no language found\n".into())
    );
}

/// The number in the element with this id.
fn number(page: &str, id: &str) -> u64 {
    let (_, element) = page.split_once(&format!("id=\"{id}\">")).unwrap();
    element.split('<').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn dashboard() {
    let example = Example::start("dashboard");
    let page = example.get("/").await;
    for text in ["Hello, Ferris!", "3 on their way", "sunny somewhere"] {
        assert!(page.contains(text), "{text} is not in {page}");
    }
    assert_eq!(number(&page, "passes"), 2);
    assert!(
        number(&page, "elapsed") >= 400,
        "not before the slowest upstream answered"
    );

    let page = example.get("/?weather=fail").await;
    assert!(
        page.contains("not available") && page.contains("3 on their way"),
        "{page}"
    );

    let page = example.get("/?weather=hang").await;
    assert!(
        page.contains("takes too long") && page.contains("3 on their way"),
        "{page}"
    );

    let page = example.get("/?weather=depends").await;
    assert!(page.contains("sunny in Augsburg"), "{page}");
    assert_eq!(number(&page, "passes"), 3);
}

#[tokio::test]
async fn transaction() {
    let example = Example::start("transaction");
    assert_eq!(example.get("/").await, "orders:\naudit:\n");
    let order = example.post("/orders?item=tea", "").await;
    assert_eq!(order, (200, "tea for 3 coins\n".into()));
    assert_eq!(
        example.get("/").await,
        "orders:\n  tea, written by pass 2\naudit:\n"
    );
    let order = example.post("/audited-orders?item=cake", "").await;
    assert_eq!(order, (200, "cake for 4 coins\n".into()));
    assert_eq!(
        example.get("/").await,
        "orders:\n  tea, written by pass 2\n  cake, written by pass 2\n\
         audit:\n  cake, written by pass 1\n"
    );
}

#[tokio::test]
async fn library() {
    let example = Example::start("library");
    let page = example.get("/").await;
    assert!(
        page.contains("Book 1 by Author 2 (essay, paper)\n"),
        "{page}"
    );
    assert!(
        page.contains("Book 50 by Author 1 (novel, paper)\n"),
        "{page}"
    );
    assert!(
        page.ends_with("3 queries instead of 101, in 3 passes\n"),
        "{page}"
    );
}

#[tokio::test]
async fn upload() {
    let folder = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let example = Example::start_with("upload", &[("UPLOADS", folder.path())]);

    // Larger than what is kept for replay.
    let chunks =
        futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![0; 100_000])));
    let request = example
        .client
        .put(&example.url)
        .body(reqwest::Body::wrap_stream(chunks));
    let answer = request.send().await.unwrap().text().await.unwrap();
    // What `head -c 10000000 /dev/zero | sha256sum` says.
    let digest = "f5e02aa71e67f41d79023a128ca35bad86cf7b6656967bfe0884b3a3c4325eaf";
    assert_eq!(answer, format!("10000000 bytes, SHA-256 {digest}\n"));
    let stored = std::fs::read(folder.path().join(digest)).unwrap();
    assert_eq!((stored.len(), files()), (10_000_000, 1));

    // A client that stops half-way leaves nothing behind.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let body = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let request = example
        .client
        .put(&example.url)
        .body(reqwest::Body::wrap_stream(body));
    let request = tokio::spawn(request.send());
    sender
        .send(Ok::<_, std::io::Error>(vec![1; 100_000]))
        .await
        .unwrap();
    until(|| files() == 2).await;
    request.abort();
    assert!(request.await.is_err());
    drop(sender);
    until(|| files() == 1).await;
}

#[tokio::test]
async fn upstream() {
    let example = Example::start("upstream");
    assert_eq!(
        example.get("/tea").await,
        "tea for 3 coins, 3 calls so far\n"
    );
    let requests = (0..100).map(|_| example.get("/cake"));
    for answer in futures_util::future::join_all(requests).await {
        assert_eq!(answer, "cake for 4 coins, 6 calls so far\n");
    }
}

#[tokio::test]
async fn chat() {
    let example = Example::start("chat");
    assert!(example.get("/").await.contains("<form method=\"post\""));
    let page = example.get("/rooms/lobby?seconds=0").await;
    assert!(page.contains("<p>nobody answered</p>"), "{page}");
    let (status, page) = example.post("/rooms/empty", "hello").await;
    assert_eq!(status, 200);
    assert!(page.contains("heard by 0"), "{page}");
    let (status, _) = example
        .post("/rooms/lobby", "long ".repeat(1000).leak())
        .await;
    assert_eq!(status, 413);

    // Waits until somebody waits, however long that takes.
    let say = async {
        loop {
            let form = example
                .client
                .post(format!("{}/rooms/lobby", example.url))
                .header("content-type", "application/x-www-form-urlencoded")
                .body("text=%3Cb%3Ehello+%26+welcome%3C%2Fb%3E");
            let response = form.send().await;
            let page = response.unwrap().text().await.unwrap();
            if page.contains("heard by 1") {
                break;
            }
            assert!(page.contains("heard by 0"), "{page}");
        }
    };
    let both = futures_util::future::join(example.get("/rooms/lobby?seconds=60"), say);
    let (page, ()) = tokio::time::timeout(std::time::Duration::from_secs(60), both)
        .await
        .unwrap();
    assert!(
        page.contains("<q>&lt;b&gt;hello &amp; welcome&lt;&#x2f;b&gt;</q>"),
        "{page}"
    );
}

#[tokio::test]
async fn tasks() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("tasks.db");
    let alone = Example::start_with("tasks", &[("DATABASE", &database)]);
    let report = format!("report 2026 for ada, by process {}\n", alone.process.id());
    assert_eq!(alone.get("/reports/2026").await, report);
    drop(alone);

    let role = |role| {
        [
            ("DATABASE", &*database),
            ("ROLE", std::path::Path::new(role)),
        ]
    };
    let web = Example::start_with("tasks", &role("web"));
    let mut worker = Command::new(binary("tasks"))
        .envs(role("worker"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let report = format!("report 2027 for ada, by process {}\n", worker.id());
    assert_eq!(web.get("/reports/2027").await, report);
    worker.kill().unwrap();
    worker.wait().unwrap();
}
