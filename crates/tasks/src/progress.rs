//! Forwarding of a task's progress to its caller.

use super::TaskId;
use super::news::News;
use super::tasks::Core;
use std::convert::Infallible;
use std::future::pending;
use tokio::sync::watch;
use tokio::time::timeout;
use tower_promises_backend::kit::progress::Report;

/// Callback for the progress of a task.
pub(super) type OnReport = Box<dyn Fn(&Report) + Send + Sync>;

impl Core {
    /// Forwards the progress of a task that runs in any process.
    pub(super) async fn follow(&self, id: &TaskId, on_report: Option<&OnReport>) -> Infallible {
        let (Some(on_report), Ok(mut news)) = (on_report, self.subscribe(id, News::Changed)) else {
            return pending().await;
        };
        let mut told = Report::default();
        loop {
            // An error of the backend is logged by the code that waits for the output.
            if let Ok(Some(record)) = self.records.read(id).await {
                let report = Report {
                    percent: record.progress,
                    message: record.message,
                };
                if report != told {
                    on_report(&report);
                    told = report;
                }
            }
            // The timeout covers lost bus messages.
            let _ = timeout(self.settings.poll_interval, news.notified()).await;
        }
    }
}

/// Forwards the progress of a task that runs in place.
pub(super) async fn follow_here(
    report: &watch::Sender<Report>,
    on_report: Option<&OnReport>,
) -> Infallible {
    let Some(on_report) = on_report else {
        return pending().await;
    };
    let mut reports = report.subscribe();
    // Reports from before the subscription count as well.
    reports.mark_changed();
    loop {
        // Cannot fail: the sender outlives this loop.
        let _ = reports.changed().await;
        let report = reports.borrow_and_update().clone();
        on_report(&report);
    }
}
