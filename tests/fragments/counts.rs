//! How often render functions are called, and that no fragment is lost.

use crate::support::{SECOND, after, open, without_grace};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::Counter;
use tokio::sync::Notify;
use tower_promises::PromiseError;

#[tokio::test(start_paused = true)]
async fn each_render_function_is_called_once_for_each_readiness() {
    const FRAGMENTS: usize = 100;
    let counters: Arc<Vec<Counter>> =
        Arc::new((0..FRAGMENTS).map(|_| Counter::default()).collect());
    let counted = Arc::clone(&counters);
    let page = open(without_grace(), move |promises| {
        let fragments = (0..FRAGMENTS).map(|number| {
            let counter = counted[number].clone();
            let fragment = promises.fragment("fragment", "", move |promises| {
                counter.add();
                let time = Duration::from_millis(number as u64 * 7 % 50 + 1);
                let first = after(promises, format!("first {number}"), time);
                let second = after(promises, format!("second {number}"), time * 2);
                let both = [first?, second?].concat();
                match number % 2 {
                    0 => Ok(both),
                    _ => after(promises, format!("third {number}"), SECOND),
                }
            });
            fragment.to_string()
        });
        Ok(fragments.collect())
    })
    .await;
    assert_eq!(page.text().matches("<template for=").count(), FRAGMENTS);
    for (number, counter) in counters.iter().enumerate() {
        // At once, when both promises have settled, and when the third one has.
        assert_eq!(counter.get(), 2 + number % 2, "fragment {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_fragment_is_lost_when_many_promises_settle_at_once() {
    const FRAGMENTS: usize = 200;
    let notify = Arc::new(Notify::new());
    let notified = Arc::clone(&notify);
    let page = tokio::spawn(async move {
        open(without_grace(), move |promises| {
            let fragments = (0..FRAGMENTS).map(|number| {
                let notified = Arc::clone(&notified);
                let fragment = promises.fragment("fragment", "", move |promises| {
                    let notified = Arc::clone(&notified);
                    let name = format!("promise {number}");
                    promises.result_or_submit(name.clone(), || async move {
                        notified.notified().await;
                        name
                    })
                });
                fragment.to_string()
            });
            Ok(fragments.collect())
        })
        .await
    });
    tokio::time::sleep(SECOND).await;
    notify.notify_waiters();
    let page = page.await.unwrap();
    assert_eq!(page.frames.len(), 2);
    assert_eq!(page.frames[1].0, SECOND);
    for number in 0..FRAGMENTS {
        let template = format!(">promise {number}</template>");
        assert!(page.frames[1].1.contains(&template), "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_handler_runs_no_more_after_the_page_has_begun() {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&notes);
    let page = open(without_grace(), move |promises| {
        noted.lock().unwrap().push(promises.pass());
        let noted = Arc::clone(&noted);
        let fragment = promises.fragment("chain", "", move |promises| {
            noted.lock().unwrap().push(100 + promises.pass());
            for name in ["a", "b", "c"] {
                after(promises, name, SECOND)?;
            }
            Ok::<_, PromiseError>("end")
        });
        after(promises, "title", SECOND)?;
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        (page.passes, page.frames.last().unwrap().0),
        (2, 3 * SECOND)
    );
    // The first promise of the chain starts with that of the title.
    assert_eq!(*notes.lock().unwrap(), [1, 101, 2, 102, 102, 102]);
}
