//! The call of the application at the end of a durable operation.

use crate::process::{Process, layer};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::operation::{SECOND, request};
use test_support::until;
use tokio::time::sleep;
use tower_promises::backend::{Backend, BoxError};
use tower_promises_operations::OperationLayer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

type Told = Arc<Mutex<Vec<String>>>;

/// A layer that notes the ends. The first calls fail.
fn telling(told: &Told, failures: usize) -> OperationLayer {
    let (told, calls) = (told.clone(), Arc::new(Mutex::new(0)));
    layer(&Backend::memory()).on_end(move |operation| {
        let number = {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            *calls
        };
        let told = told.clone();
        async move {
            if number <= failures {
                return Err(BoxError::from("it is away"));
            }
            told.lock().unwrap().push(operation.status().to_string());
            Ok(())
        }
    })
}

fn sleeping(layer: OperationLayer) -> Process {
    Process::start(layer, |promises| {
        promises.sleep("night", DAY)?;
        Ok("good morning".to_owned())
    })
}

// Contract: 9.3
#[tokio::test(start_paused = true)]
async fn the_end_of_a_suspended_operation_is_told_once() {
    let told = Told::default();
    let process = sleeping(telling(&told, 0));
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    sleep(DAY - 60 * SECOND).await;
    assert!(told.lock().unwrap().is_empty());
    sleep(SECOND * 70).await;
    assert_eq!(*told.lock().unwrap(), ["Succeeded"]);
    sleep(DAY).await;
    assert_eq!(told.lock().unwrap().len(), 1);
}

// Contract: 9.3
#[tokio::test(start_paused = true)]
async fn the_cancel_of_a_suspended_operation_is_told_soon_and_after_failures() {
    for (failures, patience) in [(0, SECOND), (1, DAY / 12)] {
        let told = Told::default();
        let process = sleeping(telling(&told, failures));
        let path = process.begin("POST /").await;
        process.suspended(&path).await;
        let answer = process.send(request(&format!("DELETE {path}"), &[])).await;
        assert_eq!(answer.status, 200);
        if failures == 0 {
            until("the end is told", || told.lock().unwrap().len() == 1).await;
        } else {
            // Not longer than the operation is stored.
            sleep(patience).await;
        }
        assert_eq!(*told.lock().unwrap(), ["Canceled"]);
    }
}

// Contract: 9.3
#[tokio::test(start_paused = true)]
async fn the_cancel_of_a_running_operation_is_told_once() {
    let calls = Told::default();
    let noted = calls.clone();
    let layer = layer(&Backend::memory()).on_end(move |operation| {
        noted.lock().unwrap().push(operation.status().to_string());
        // The request that cancels and the process that runs the operation tell the end in this time.
        async {
            sleep(SECOND).await;
            Ok(())
        }
    });
    let process = Process::start(layer, |promises| {
        promises.durable("work", async || sleep(DAY).await)?;
        Ok("done".to_owned())
    });
    let path = process.begin("POST /").await;
    let answer = process.send(request(&format!("DELETE {path}"), &[])).await;
    assert_eq!(answer.status, 200);
    sleep(60 * SECOND).await;
    assert_eq!(*calls.lock().unwrap(), ["Canceled"]);
}

// Contract: 9.3
#[tokio::test(start_paused = true)]
async fn a_call_on_an_end_that_never_resolves_is_made_again() {
    let calls = Told::default();
    let noted = calls.clone();
    let layer = layer(&Backend::memory()).on_end(move |operation| {
        let number = {
            let mut noted = noted.lock().unwrap();
            noted.push(operation.status().to_string());
            noted.len()
        };
        async move {
            if number == 1 {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    let process = sleeping(layer);
    let path = process.begin("POST /").await;
    process.suspended(&path).await;
    let answer = process.send(request(&format!("DELETE {path}"), &[])).await;
    assert_eq!(answer.status, 200);
    sleep(DAY / 12).await;
    assert_eq!(*calls.lock().unwrap(), ["Canceled", "Canceled"]);
}
