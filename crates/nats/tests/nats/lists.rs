//! Lists of the NATS store while its values change.

use std::collections::BTreeSet;
use std::sync::Arc;
use test_support::nats::Server;
use tower_promises_backend::Store;

const KEYS: usize = 600;
const REPLACED: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_list_ends_although_values_are_replaced_while_it_reads() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = Arc::new(server.backend().await.store());
    for number in 0..KEYS {
        put(&*store, number).await;
    }
    for _ in 0..20 {
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                for number in KEYS - REPLACED..KEYS {
                    put(&*store, number).await;
                }
            }
        });
        let (mut keys, mut after) = (BTreeSet::new(), None);
        loop {
            let page = store.list("key.", after.as_deref(), 100).await.unwrap();
            keys.extend(page.entries.into_iter().map(|listed| listed.key));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(keys.len(), KEYS);
        writer.await.unwrap();
    }
}

async fn put(store: &dyn Store, number: usize) {
    let key = format!("key.{number}");
    store.put(&key, "value".into(), None).await.unwrap();
}
