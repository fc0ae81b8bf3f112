//! The example `checkout`, whose instances are killed at each step.
#![allow(clippy::unwrap_used)]

mod browser;

use serde_json::Value;
use test_support::example::{Example, eventually, until};
use test_support::nats::Server;

/// The example and its world.
struct Checkout {
    example: Example,
    world: String,
}

impl Checkout {
    async fn start(backend: &str) -> Self {
        let environment = [("BACKEND", backend), ("WORLD_ADDR", "127.0.0.1:0")];
        let example = Example::start_with(env!("CARGO_BIN_EXE_checkout"), &environment);
        let world = eventually("the address of the world", async || {
            let output = example.output();
            let line = output
                .lines()
                .find_map(|line| line.strip_prefix("the world is at "));
            line.map(str::to_owned)
        });
        Self {
            world: world.await,
            example,
        }
    }

    /// Orders, and returns the path of the operation.
    async fn order(&self, form: &'static str) -> String {
        let request = self
            .example
            .client
            .post(format!("{}/order", self.example.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("prefer", "respond-async")
            .body(form);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 202);
        let path = response.headers()["operation-location"].to_str().unwrap();
        path.to_owned()
    }

    /// Reads from the shop. `None` if an instance was killed meanwhile.
    async fn read(&self, path: &str, accept: &str) -> Option<String> {
        let url = format!("{}{path}", self.example.url);
        let request = self.example.client.get(url).header("accept", accept);
        request.send().await.ok()?.text().await.ok()
    }

    async fn document(&self, path: &str) -> Option<Value> {
        let text = self.read(path, "application/json").await?;
        serde_json::from_str(&text).ok()
    }

    /// Waits until the order waits for a promise.
    async fn until_waits(&self, path: &str, name: &str) {
        until(&format!("the order waits for {name}"), async || {
            let document = self.document(path).await.unwrap_or_default();
            document["waitingFor"][0]["name"] == name
        })
        .await;
    }

    async fn until_succeeded(&self, path: &str) {
        until("the order has ended", async || {
            let document = self.document(path).await.unwrap_or_default();
            assert_ne!(document["status"], "Failed", "{document}");
            document["status"] == "Succeeded"
        })
        .await;
    }

    async fn world(&self, path: &str) -> String {
        let request = self.example.client.get(format!("{}{path}", self.world));
        request.send().await.unwrap().text().await.unwrap()
    }

    async fn post(&self, path: &str, form: &'static str) {
        let request = self
            .example
            .client
            .post(format!("{}{path}", self.world))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
    }

    /// Returns the services that had an effect, with the numbers of their calls.
    async fn ledger(&self) -> Vec<(String, u64)> {
        let entries: Vec<Value> = serde_json::from_str(&self.world("/ledger").await).unwrap();
        let entries = entries.iter().map(|entry| {
            let service = entry["service"].as_str().unwrap().to_owned();
            (service, entry["calls"].as_u64().unwrap())
        });
        entries.collect()
    }
}

async fn an_order_survives(backend: &str) {
    let checkout = Checkout::start(backend).await;
    // Each service kills the instance that calls, after the effect and before the answer.
    let path = checkout.order("item=Tea&kill=each").await;
    checkout.until_waits(&path, "approval").await;
    let page = checkout.read(&path, "text/html").await.unwrap_or_default();
    assert!(page.contains("Waiting for: approval"), "{page}");

    // No instance has anything of the order in its memory.
    checkout.post("/kill/web-1", "").await;
    checkout.post("/kill/web-2", "").await;
    let question = checkout.world("/mail/0").await;
    assert!(question.contains("Do you approve?"), "{question}");
    checkout.until_waits(&path, "approval").await;
    checkout.post("/mail/0", "granted=yes").await;
    checkout.until_waits(&path, "packing").await;
    checkout.post("/kill/web-1", "").await;
    checkout.post("/kill/web-2", "").await;
    checkout.until_succeeded(&path).await;

    let result = format!("{path}/result");
    let receipt = eventually("the result", || checkout.read(&result, "text/html")).await;
    for line in [
        "Reserved: Tea",
        "Charged 42.00 €, receipt 1",
        "Approved by Ada",
        "Shipped: Tea, parcel 1",
    ] {
        assert!(receipt.contains(line), "{receipt}");
    }
    let ledger = checkout.ledger().await;
    let services: Vec<_> = ledger.iter().map(|(service, _)| &**service).collect();
    assert_eq!(services, ["reserve", "charge", "mail", "ship"]);
    assert!(ledger.iter().all(|(_, calls)| *calls > 1), "{ledger:?}");
}

#[tokio::test]
async fn an_order_survives_the_death_of_each_instance_on_sqlite() {
    an_order_survives("sqlite").await;
}

#[tokio::test]
async fn an_order_survives_the_death_of_each_instance_on_nats() {
    let server = Server::start().await;
    an_order_survives(&format!("nats:{}", server.address())).await;
}

#[tokio::test]
async fn a_refused_order_returns_the_money_once() {
    let checkout = Checkout::start("sqlite").await;
    let path = checkout.order("item=Tea&kill=refund").await;
    checkout.until_waits(&path, "approval").await;
    checkout.post("/mail/0", "granted=no").await;
    checkout.until_succeeded(&path).await;
    let ledger = checkout.ledger().await;
    let services: Vec<_> = ledger.iter().map(|(service, _)| &**service).collect();
    assert_eq!(services, ["reserve", "charge", "mail", "refund", "release"]);
    assert!(ledger[3].1 > 1, "{ledger:?}");
    // The first answer counts.
    checkout.post("/mail/0", "granted=yes").await;
    let page = checkout.world("/mail/0").await;
    assert!(!page.contains("approved"), "{page}");
}
