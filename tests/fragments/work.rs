//! The promises of fragments: when they start, and what they may do.

use crate::support::{
    SECOND, after, browser, html, open, open_with, pending, template, without_grace,
};
use http::Request;
use http_body_util::{BodyExt, Full};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use test_support::{Counter, TestRequest, promises};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_promises::blocking::{BlockingPool, OnSaturation};
use tower_promises::fragment::{FragmentError, FragmentLayer};
use tower_promises::loader::Loader;
use tower_promises::promise::Start;
use tower_promises::{BoxError, PromiseError, PromiseLayer, Promises};

#[tokio::test(start_paused = true)]
async fn promises_of_fragments_start_with_the_others() {
    for start in [Start::default(), Start::Eager] {
        let layer = without_grace().promises(PromiseLayer::new().start(start));
        let page = open(layer, |promises| {
            let slow = promises.fragment("slow", "…", |it| after(it, "slow", 3 * SECOND));
            let title = after(promises, "title", 2 * SECOND)?;
            let late = promises.fragment("late", "…", |it| after(it, "late", 2 * SECOND));
            Ok(format!("{title}{slow}{late}"))
        })
        .await;
        let times: Vec<_> = page.frames.iter().map(|it| it.0.as_secs()).collect();
        assert_eq!((times, page.passes), (vec![2, 3, 4], 2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fragment_may_request_one_promise_after_another() {
    let page = open(without_grace(), |promises| {
        let chain = promises.fragment("chain", "…", |promises| {
            let first = after(promises, "first", SECOND)?;
            let second = after(promises, format!("{first} second"), SECOND)?;
            after(promises, format!("{second} third"), SECOND)
        });
        Ok(chain.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "first second third"))
    );
    assert_eq!((page.frames[1].0, page.passes), (3 * SECOND, 1));
}

#[tokio::test(start_paused = true)]
async fn placeholders_are_never_shown() {
    let page = open(without_grace(), |promises| {
        let fragment = promises.fragment("list", "…", |promises| {
            // Does not return the error, so that both promises start at once.
            let first = after(promises, "first", 2 * SECOND).unwrap_or_default();
            let second = after(promises, "second", SECOND).unwrap_or_default();
            Ok::<_, PromiseError>(format!("[{first}{second}]"))
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "[firstsecond]"))
    );
    assert_eq!(page.frames[1].0, 2 * SECOND);
}

struct Names(Counter);

impl Loader for Names {
    type Key = u32;
    type Value = String;
    type Error = BoxError;

    async fn load(&self, keys: &[u32]) -> Result<HashMap<u32, String>, BoxError> {
        self.0.add();
        sleep(SECOND).await;
        Ok(keys
            .iter()
            .map(|key| (*key, format!("name {key}")))
            .collect())
    }
}

#[tokio::test(start_paused = true)]
async fn all_fragments_of_a_pass_load_in_one_batch() {
    let calls = Counter::default();
    let loader = Arc::new(Names(calls.clone()));
    let page = open(without_grace(), move |promises| {
        let fragments = (0..50).map(|key| {
            let loader = Arc::clone(&loader);
            let fragment = promises.fragment("name", "", move |promises| {
                let name = promises.load(&loader, key)?;
                Ok::<_, PromiseError>(name.unwrap())
            });
            fragment.to_string()
        });
        Ok(fragments.collect())
    })
    .await;
    let rest: String = (0..50)
        .map(|key| template(key + 1, &format!("name {key}")))
        .collect();
    assert_eq!(
        (page.frames[1].1.as_str(), page.frames[1].0),
        (&*rest, SECOND)
    );
    assert_eq!((calls.get(), page.frames.len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn fragments_that_are_rendered_together_load_their_next_keys_in_one_batch() {
    let calls = Counter::default();
    let loader = Arc::new(Names(calls.clone()));
    let page = open(without_grace(), move |promises| {
        let fragments = (0..5).map(|key| {
            let loader = Arc::clone(&loader);
            let fragment = promises.fragment("name", "", move |promises| {
                after(promises, "first", SECOND)?;
                let names = promises.load_many(&loader, [key, key + 100])?;
                Ok::<_, PromiseError>(names.into_iter().flatten().collect::<String>())
            });
            fragment.to_string()
        });
        Ok(fragments.collect())
    })
    .await;
    assert_eq!((calls.get(), page.frames.len()), (1, 2));
    assert!(
        page.text().contains(&template(5, "name 4name 104")),
        "{}",
        page.text()
    );
}

#[tokio::test]
async fn a_fragment_may_wait_for_blocking_work() {
    let page = open(without_grace(), |promises| {
        let fragment = promises.fragment("blocking", "…", |promises| {
            promises.result_or_submit_blocking("sum", || {
                assert!(Promises::current().is_some());
                "sum".to_owned()
            })
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "sum"))
    );
}

#[tokio::test]
async fn a_pool_without_room_fails_a_fragment_whose_page_has_begun() {
    let pool = BlockingPool::builder().max_running(1).max_waiting(0);
    let pool = pool.on_saturation(OnSaturation::Reject).build();
    let layer = without_grace().promises(PromiseLayer::new().blocking(pool));
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (release, held) = (
        Arc::new(Mutex::new(Some(release))),
        Arc::new(Mutex::new(held)),
    );
    let page = open(layer.on_error(FragmentError::to_string), move |promises| {
        let (held, release) = (Arc::clone(&held), Arc::clone(&release));
        let first = promises.fragment("first", "…", move |promises| {
            let held = Arc::clone(&held);
            promises.result_or_submit_blocking("held", move || {
                let _ = held.lock().unwrap().recv();
                "released"
            })
        });
        let second = promises.fragment("second", "…", move |promises| {
            promises.result_or_submit("before", tokio::task::yield_now)?;
            let job = promises.result_or_submit_blocking("job", || "job");
            if job.as_ref().is_err_and(|error| !error.is_pending()) {
                drop(release.lock().unwrap().take());
            }
            job
        });
        Ok(format!("{first}{second}"))
    })
    .await;
    let shell = [pending(1, "…"), pending(2, "…")].concat();
    let rest = [
        template(2, "fragment `second` failed"),
        template(1, "released"),
    ]
    .concat();
    assert_eq!(page.text(), shell + &*rest);
}

#[tokio::test(start_paused = true)]
async fn a_fragment_may_read_the_request_body_in_a_promise() {
    for is_late in [false, true] {
        let request = Request::post("/").header("accept", "text/html");
        let request = request.body(Full::from("the body")).unwrap();
        let page = open_with(without_grace(), request, move |promises| {
            let fragment = promises.fragment("size", "…", move |promises| {
                if is_late {
                    after(promises, "first", SECOND)?;
                }
                promises.result_or_submit_body("size", async |body| {
                    sleep(SECOND).await;
                    body.collect().await.unwrap().to_bytes().len().to_string()
                })
            });
            Ok(html(fragment.to_string()))
        })
        .await;
        assert_eq!(
            page.text(),
            format!("{}{}", pending(1, "…"), template(1, "8")),
            "{is_late}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn promises_of_fragments_may_await_others() {
    let page = open(without_grace(), |promises| {
        let fragment = promises.fragment("total", "…", |promises| {
            promises.result_or_try_submit("total", || async {
                let promises = Promises::current().unwrap();
                let one = |name: &'static str| {
                    promises.resolve(name, async move || {
                        sleep(SECOND).await;
                        1
                    })
                };
                let (a, b) = tokio::join!(one("a"), one("b"));
                Ok::<_, PromiseError>((a? + b?).to_string())
            })
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!("{}{}", pending(1, "…"), template(1, "2"))
    );
    assert_eq!(page.frames[1].0, SECOND);
}

#[tokio::test(start_paused = true)]
async fn too_many_promises_in_a_fragment_reject_the_request_or_fail_the_fragment() {
    let layer = || {
        let promises = PromiseLayer::new().max_promises(2);
        without_grace()
            .promises(promises)
            .on_error(|error| error.to_string())
    };
    let page = open(layer(), |promises| {
        let fragment = promises.fragment("three", "…", |promises| {
            let read = |name: &str| after(promises, name, SECOND);
            let all = ["a", "b", "c"].map(read);
            all.into_iter().collect::<Result<String, _>>()
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(page.head.status, 500);

    let page = open(layer(), |promises| {
        let fragment = promises.fragment("chain", "…", |promises| {
            for name in ["a", "b", "c"] {
                after(promises, name, SECOND)?;
            }
            Ok::<_, PromiseError>(String::new())
        });
        Ok(fragment.to_string())
    })
    .await;
    assert_eq!(
        page.text(),
        format!(
            "{}{}",
            pending(1, "…"),
            template(1, "fragment `chain` failed")
        )
    );
}

#[tokio::test(start_paused = true)]
async fn fragments_may_be_created_in_promises_but_have_no_page_to_follow() {
    let page = open(
        without_grace().on_error(|error| format!("[{error}]")),
        |promises| {
            let fragment = promises.fragment("outer", "…", |promises| {
                promises.result_or_submit("work", async || {
                    let promises = Promises::current().unwrap();
                    let settled =
                        promises.fragment("settled", "…", |_| Ok::<_, BoxError>("settled"));
                    let inner = promises.fragment("inner", "…", |it| after(it, "inner", SECOND));
                    format!("{settled}{inner}")
                })
            });
            Ok(fragment.to_string())
        },
    )
    .await;
    assert_eq!(page.text().matches("settled").count(), 1, "{}", page.text());
}

#[tokio::test(start_paused = true)]
async fn a_page_is_not_polled_while_nothing_happens() {
    let service = FragmentLayer::new().layer(service_fn(|request: TestRequest| {
        let promises = promises(&request);
        let fragments = (0..100).map(|number| {
            let time = SECOND * (1 + number % 4);
            let fragment = promises.fragment("fragment", "", move |promises| {
                after(promises, format!("{number}"), time)
            });
            fragment.to_string()
        });
        std::future::ready(Ok::<_, BoxError>(html(fragments.collect::<String>())))
    }));
    let response = service.oneshot(browser("/")).await.unwrap();
    let mut body = Box::pin(response.into_body());
    let (mut polls, mut frames) = (0, 0);
    while let Some(frame) = std::future::poll_fn(|cx| {
        polls += 1;
        http_body::Body::poll_frame(body.as_mut(), cx)
    })
    .await
    {
        frame.unwrap();
        frames += 1;
    }
    // The page, four times 25 fragments, and the end. Timers of the same instant may wake more than once.
    assert_eq!(frames, 5);
    assert!(polls < 20, "{polls} polls");
}
