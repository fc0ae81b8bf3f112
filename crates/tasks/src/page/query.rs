//! The parameters of a request.

use super::link::Link;
use crate::TaskState;
use std::borrow::Cow;

/// The largest number of earlier pages that a link remembers, and the largest size of their cursors in bytes.
const MAX_TRAIL: (usize, usize) = (20, 2000);

/// The shortest and the longest interval at which a page reloads itself, in seconds.
const REFRESH: (u32, u32) = (2, 3600);

/// States by the names that links have.
pub(super) const STATES: [(&str, TaskState, &str); 6] = [
    ("queued", TaskState::Queued, "Waiting"),
    ("running", TaskState::Running, "Running"),
    ("succeeded", TaskState::Succeeded, "Succeeded"),
    ("failed", TaskState::Failed, "Failed"),
    ("dead", TaskState::Dead, "Dead"),
    ("cancelled", TaskState::Cancelled, "Cancelled"),
];

/// The parameters of a request. Those that are empty or malformed count as missing.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    pub(super) view: Option<String>,
    pub(super) file: Option<String>,
    pub(super) id: Option<String>,
    pub(super) queue: Option<String>,
    pub(super) state: Option<String>,
    pub(super) task: Option<String>,
    pub(super) principal: Option<String>,
    /// The cursor of the page.
    pub(super) after: Option<String>,
    /// The cursors of the pages before, the first of them first. The first page has the cursor `-`.
    pub(super) trail: Vec<String>,
    /// The number of the page, from zero.
    pub(super) page: usize,
    /// The interval at which the page reloads itself, in seconds.
    pub(super) refresh: Option<u32>,
    /// What a form has done, and to which task.
    pub(super) done: Option<String>,
    pub(super) done_id: Option<String>,
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = Some(Cow::into_owned(value)).filter(|value| !value.is_empty());
            match &*name {
                "view" => parsed.view = value,
                "file" => parsed.file = value,
                "id" => parsed.id = value,
                "queue" => parsed.queue = value,
                "state" => parsed.state = value,
                "task" => parsed.task = value,
                "principal" => parsed.principal = value,
                "after" => parsed.after = value,
                "trail" => parsed.trail.extend(value),
                "page" => parsed.page = number(value).unwrap_or_default(),
                "refresh" => {
                    let (shortest, longest) = REFRESH;
                    parsed.refresh = number(value).map(|it: u32| it.clamp(shortest, longest));
                }
                "done" => parsed.done = value,
                "done-id" => parsed.done_id = value,
                _ => {}
            }
        }
        let (pages, bytes) = MAX_TRAIL;
        let mut size = 0;
        let kept = parsed.trail.iter().rev().take(pages);
        let kept = kept.take_while(|cursor| {
            size += cursor.len();
            size <= bytes
        });
        let kept = kept.count();
        parsed.trail.drain(..parsed.trail.len() - kept);
        parsed
    }

    /// Returns the state to select, if it has one of the known names.
    pub(super) fn task_state(&self) -> Option<TaskState> {
        let name = self.state.as_deref()?;
        let found = STATES.iter().find(|(known, ..)| *known == name);
        found.map(|(_, state, _)| *state)
    }

    /// Returns the link to this view with its filters, without the position in a list and without what a form has done.
    pub(super) fn selection(&self) -> Link {
        let view = self.view.as_deref();
        Link::default()
            .with_some("view", view)
            .with_some("id", self.id.as_deref())
            .with_some("queue", self.queue.as_deref())
            .with_some("state", self.state.as_deref())
            .with_some("task", self.task.as_deref())
            .with_some("principal", self.principal.as_deref())
    }

    /// Returns the link to this page of this view.
    pub(super) fn here(&self) -> Link {
        let mut link = self.selection().with_some("after", self.after.as_deref());
        for cursor in &self.trail {
            link = link.with("trail", cursor);
        }
        if self.page > 0 {
            link = link.with("page", self.page.to_string());
        }
        link
    }

    /// Returns the link to the next page of a list.
    pub(super) fn next(&self, cursor: &str) -> Link {
        let here = self.after.as_deref().unwrap_or("-");
        let trail = self.trail.iter().map(String::as_str).chain([here]);
        let mut link = self.selection().with("after", cursor);
        for cursor in trail {
            link = link.with("trail", cursor);
        }
        self.keep_refresh(link)
    }

    /// Returns the link to the previous page of a list. `None` on the first page.
    pub(super) fn previous(&self) -> Option<Link> {
        self.after.as_ref()?;
        let mut link = self.selection();
        if let Some((last, trail)) = self.trail.split_last() {
            link = link.with_some("after", Some(&**last).filter(|last| *last != "-"));
            for cursor in trail {
                link = link.with("trail", cursor);
            }
        }
        Some(self.keep_refresh(link))
    }

    /// Adds the interval of this page to a link.
    pub(super) fn keep_refresh(&self, link: Link) -> Link {
        let refresh = self.refresh.map(|seconds| seconds.to_string());
        link.with_some("refresh", refresh.as_deref())
    }
}

fn number<N: std::str::FromStr>(value: Option<String>) -> Option<N> {
    value?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn a_list_is_walked_to_its_end_and_back() {
        let mut query = Query::parse("view=tasks&state=failed&id=&refresh=1&page=x");
        assert_eq!(
            (query.id.clone(), query.refresh, query.page),
            (None, Some(2), 0)
        );
        let first = query.here().to_string();
        assert_eq!(first, "?view=tasks&state=failed");
        assert!(query.previous().is_none());
        let mut pages = vec![first];
        for cursor in ["a", "b&", "c"] {
            query = Query::parse(&query.next(cursor).to_string()[1..]);
            pages.push(query.here().to_string());
        }
        for page in pages.iter().rev().skip(1) {
            query = Query::parse(&query.previous().unwrap_or_default().to_string()[1..]);
            assert_eq!(query.here().to_string(), *page);
        }
    }

    #[test]
    fn a_link_has_a_bounded_length() {
        for (prefix, remembered) in [("", 20), (&*"x".repeat(300), 6), (&*"x".repeat(3000), 0)] {
            let mut query = Query::parse("view=tasks");
            for number in 100..200 {
                let next = query.next(&format!("{prefix}{number}")).to_string();
                query = Query::parse(&next[1..]);
            }
            assert_eq!(query.trail.len(), remembered);
            // The first pages are forgotten, so the oldest step leads to the first page.
            for _ in 0..=remembered {
                query = Query::parse(&query.previous().unwrap_or_default().to_string()[1..]);
            }
            assert_eq!(query.here().to_string(), "?view=tasks");
        }
    }
}
