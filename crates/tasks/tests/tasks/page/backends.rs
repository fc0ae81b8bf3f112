//! The page on backends outside of the process: one process shows it, another one works.

use super::forms::{BROWSER, die, form, post};
use super::{Answer, open, page};
use crate::backends::{Opened, in_a_file_of_sqlite, on_postgresql};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use test_support::eventually::{soon, until};
use test_support::task::{Act, Ran, act, builder};
use tower_promises_tasks::{TaskFailure, TaskId, TasksPage};

#[tokio::test]
async fn in_sqlite() {
    tasks_are_shown_and_changed(in_a_file_of_sqlite().await).await;
}

#[tokio::test]
async fn in_postgresql() {
    tasks_are_shown_and_changed(on_postgresql().await).await;
}

/// Sends the form of a task's view.
async fn change(page: &TasksPage, action: &str, id: &TaskId) -> Answer {
    let view = format!("view=task&id={id}");
    let token = open(page, &view).await.token(id);
    post(page, &view, &BROWSER, form(action, id, &token)).await
}

async fn tasks_are_shown_and_changed(opened: Opened) {
    let is_broken = Arc::new(AtomicBool::new(true));
    let script = {
        let is_broken = is_broken.clone();
        move |argument: String, _| {
            let is_broken = is_broken.load(Ordering::SeqCst);
            async move {
                match &*argument {
                    "endless" => std::future::pending().await,
                    "conflict" if is_broken => Ran::Err(TaskFailure::conflict("it is broken")),
                    _ => Ok(argument),
                }
            }
        }
    };
    let [shows, works] = opened
        .backends
        .each_ref()
        .map(|backend| builder(backend, script.clone()).max_attempts(1).build());
    let _worker = works.work().unwrap();
    // Counts anew for each view.
    let page = page(&shows).page_size(2).count_interval(Duration::ZERO);
    let queue = shows.queue("main");
    let [again, discarded] = [die(&shows).await, die(&shows).await];
    soon(queue.call(act("good"))).await.unwrap();
    let late = queue.submit(act("late")).delay(Duration::from_secs(3600));
    let late = late.await.unwrap();
    let running = queue.submit(act("endless")).await.unwrap();
    let running_link = format!("href=\"?view=task&amp;id={running}\"");
    until("the task is shown as running", async || {
        open(&page, "").await.html.contains(&running_link)
    })
    .await;
    open(&page, "").await.assert_has(&[
        "<strong>1</strong> <span><a href=\"?view=tasks&amp;state=queued\">Waiting",
        "<strong>2</strong> <span><a href=\"?view=dead-letters\">Dead letters",
        "queue=main&amp;state=queued\">1</a>",
        "queue=main&amp;state=running\">1</a>",
        "view=dead-letters&amp;queue=main\">2</a>",
        "queue=main&amp;state=succeeded\">1</a>",
        "all 5 stored tasks",
        "Running now",
        &running_link,
    ]);

    let mut list = open(&page, "view=tasks&queue=main").await;
    let mut listed = 0;
    loop {
        listed += list.html.matches("href=\"?view=task&amp;id=").count();
        if !list.html.contains("rel=\"next\"") {
            break;
        }
        list = open(&page, &list.link("Next")).await;
    }
    assert_eq!(listed, 5);
    let queued = open(&page, "view=tasks&state=queued").await;
    queued.assert_has(&[&format!("id={late}")]);
    queued.assert_has_no(&format!("id={running}"));

    is_broken.store(false, Ordering::SeqCst);
    for (action, id) in [
        ("send_again", &again),
        ("discard", &discarded),
        ("cancel", &late),
        ("cancel", &running),
    ] {
        let answer = change(&page, action, id).await;
        assert_eq!(answer.status, 303, "{action}: {}", answer.html);
    }
    let output = soon(shows.output::<Act>(&again)).await.unwrap();
    assert_eq!(output, "conflict");
    until("all tasks have ended", async || {
        let overview = open(&page, "").await.html;
        overview.contains("queue=main&amp;state=cancelled\">2</a>")
            && overview.contains("queue=main&amp;state=succeeded\">2</a>")
    })
    .await;
    let letters = open(&page, "view=dead-letters").await;
    letters.assert_has(&["There are no dead letters here."]);
}
