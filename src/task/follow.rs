//! What a task says of itself, for whoever has called it.

use super::TaskId;
use super::context::Report;
use super::core::Core;
use std::convert::Infallible;
use std::future::pending;
use tokio::sync::watch;
use tokio::time::timeout;

/// Is told what a task says of itself.
pub(super) type OnReport = Box<dyn Fn(&Report) + Send + Sync>;

impl Core {
    /// Tells what a task of any process says of itself.
    pub(super) async fn follow(&self, id: &TaskId, on_report: Option<&OnReport>) -> Infallible {
        let (Some(on_report), Ok(mut news)) = (on_report, self.subscribe(id)) else {
            return pending().await;
        };
        let mut told = Report::default();
        loop {
            // Whoever waits for the output says that the backend has failed.
            if let Ok(Some(record)) = self.records.find(id).await {
                let report = Report {
                    progress: record.progress,
                    message: record.message,
                };
                if report != told {
                    on_report(&report);
                    told = report;
                }
            }
            // The poll is for what nobody has told.
            let _ = timeout(self.settings.poll_interval, news.changed()).await;
        }
    }
}

/// Tells what a task that runs in place says of itself.
pub(super) async fn follow_here(
    report: &watch::Sender<Report>,
    on_report: Option<&OnReport>,
) -> Infallible {
    let Some(on_report) = on_report else {
        return pending().await;
    };
    let mut reports = report.subscribe();
    // What was said before this subscription counts, too.
    reports.mark_changed();
    loop {
        // It cannot fail: the sender is there.
        let _ = reports.changed().await;
        let report = reports.borrow_and_update().clone();
        on_report(&report);
    }
}
