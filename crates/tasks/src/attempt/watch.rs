//! Watch over an attempt while it runs.

use super::claim::Attempt;
use super::end::End;
use crate::news::News;
use crate::observe;
use std::convert::Infallible;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tower_promises_backend::kit::progress::Report;
use tower_promises_backend::kit::topics::Subscription;

impl Attempt<'_> {
    /// Resolves when the attempt must stop.
    pub(super) async fn watch(&self, mut cancels: Subscription) -> End {
        loop {
            // The timeout covers lost bus messages.
            let _ = timeout(self.core.settings.poll_interval, cancels.notified()).await;
            match self.core.records.read(&self.letter.id).await {
                Ok(Some(record)) if record.token.as_ref() != Some(&self.token) => {
                    return End::Superseded;
                }
                Ok(Some(record)) if record.cancel => return End::Cancelled,
                // A missing record does not stop the attempt: its outcome could not be recorded elsewhere either.
                Ok(Some(_) | None) => {}
                Err(error) => observe::backend_failed(&self.letter.id, &error),
            }
        }
    }

    /// Announces the start of the attempt and stores progress reports. Runs beside the task, which does not wait for
    /// it.
    pub(super) async fn report(&self, report: &watch::Sender<Report>) -> Infallible {
        self.core.announce(&self.letter.id, News::Changed).await;
        let mut reports = report.subscribe();
        // Reports from before the subscription count as well.
        reports.mark_changed();
        let mut stored = Report::default();
        loop {
            // Cannot fail: the sender outlives this loop.
            let _ = reports.changed().await;
            let report = reports.borrow_and_update().clone();
            if report == stored {
                continue;
            }
            match self.change(&report, |_| {}).await {
                Ok(Some(_)) => self.core.announce(&self.letter.id, News::Changed).await,
                Ok(None) => {}
                Err(error) => observe::backend_failed(&self.letter.id, &error),
            }
            stored = report;
            sleep(self.core.settings.progress_interval).await;
        }
    }
}
