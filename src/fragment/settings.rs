use crate::promise::fragment_error::FragmentError;
use crate::promise::registry::{FragmentSettings, OnFragmentError};
use http::request;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

type StreamWhen = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;

/// The settings of a [`FragmentLayer`](super::FragmentLayer), without those of the passes.
#[derive(Clone)]
pub(super) struct Settings {
    /// The settings that a request needs.
    pub(super) fragments: Arc<FragmentSettings>,
    pub(super) grace: Duration,
    pub(super) timeout: Duration,
    pub(super) max_buffered_bytes: usize,
    pub(super) stream_when: Option<StreamWhen>,
    /// The element that loads the script.
    pub(super) script: Option<Arc<str>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fragments: Arc::new(FragmentSettings {
                max_fragments: 256,
                on_error: None,
            }),
            grace: Duration::from_millis(10),
            timeout: Duration::from_secs(30),
            max_buffered_bytes: 256 * 1024,
            stream_when: None,
            script: None,
        }
    }
}

impl Settings {
    /// Changes the settings that a request needs. Other clones of the settings keep theirs.
    pub(super) fn set_fragments(&mut self, set: impl FnOnce(&mut FragmentSettings)) {
        set(Arc::make_mut(&mut self.fragments));
    }

    /// Sets the address of the script for browsers without native support.
    pub(super) fn set_script(&mut self, address: &str) {
        let mut escaped = String::with_capacity(address.len());
        for character in address.chars() {
            match character {
                '&' => escaped.push_str("&amp;"),
                '"' => escaped.push_str("&quot;"),
                '<' => escaped.push_str("&lt;"),
                _ => escaped.push(character),
            }
        }
        let element = format!(r#"<script src="{escaped}" async></script>"#);
        self.script = Some(element.into());
    }

    /// What a page shows in place of a fragment that failed.
    pub(super) fn replacement(on_error: Option<&OnFragmentError>, error: &FragmentError) -> String {
        on_error.map(|on_error| on_error(error)).unwrap_or_default()
    }

    pub(super) fn debug(&self, debug: &mut fmt::DebugStruct<'_, '_>) {
        debug
            .field("grace", &self.grace)
            .field("timeout", &self.timeout)
            .field("max_fragments", &self.fragments.max_fragments)
            .field("max_buffered_bytes", &self.max_buffered_bytes)
            .field("stream_when", &self.stream_when.is_some())
            .field("on_error", &self.fragments.on_error.is_some())
            .field("script", &self.script);
    }
}
