//! One call of a render function.

use super::observe;
use super::settings::Settings;
use crate::promise::Key;
use crate::promise::fragment_error::FragmentError;
use crate::promise::registry::FragmentNumber;
use crate::{BoxError, Promises, panic};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The result of calling a render function.
pub(super) enum Attempt {
    Rendered(String),
    Failed(FragmentError),
    /// The render function has missed promises.
    Pending {
        /// `None` if the page has to wait for the fragment.
        number: Option<FragmentNumber>,
        /// The places of the promises.
        waits: Vec<usize>,
        parent: Option<FragmentNumber>,
    },
}

/// Calls a render function, with a handle that notes the promises that the function misses. `number` is that of a
/// fragment that is rendered again.
pub(super) fn attempt<E: Into<BoxError>>(
    promises: &Promises,
    number: Option<FragmentNumber>,
    name: &Key,
    render: impl Fn(&Promises) -> Result<String, E>,
) -> Attempt {
    let reader = promises.reader();
    let registry = &promises.registry;
    let opened = registry.open_fragment(reader, number);
    let inside = match &opened {
        Some(opened) => Promises::of_reader(registry, reader.of_fragment(opened.number)),
        // The pass is over, so every read is an error.
        None => promises.clone(),
    };
    let rendered = catch_unwind(AssertUnwindSafe(|| inside.scope(|| render(&inside))));
    let has_failed = !matches!(rendered, Ok(Ok(_)));
    let waits = match &opened {
        Some(opened) => registry.close_fragment(opened.number, has_failed),
        None => Vec::new(),
    };
    let name = || name.clone();
    match rendered {
        Err(panic) => {
            let (name, message) = (name(), panic::message(&*panic));
            Attempt::Failed(FragmentError::Panicked { name, message })
        }
        Ok(_) if !waits.is_empty() => Attempt::Pending {
            number: opened.filter(|it| it.may_stream).map(|it| it.number),
            waits,
            parent: reader.fragment,
        },
        Ok(Ok(html)) => Attempt::Rendered(html),
        Ok(Err(error)) => {
            let (name, error) = (name(), error.into());
            Attempt::Failed(FragmentError::Failed { name, error })
        }
    }
}

/// Logs the error of a fragment once for a request, and returns what the page shows instead.
pub(super) fn failed(promises: &Promises, error: &FragmentError) -> String {
    let text = match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    };
    if promises.registry.report_fragment(error.name(), text) {
        observe::failed(error);
    }
    let on_error = promises.registry.on_fragment_error();
    let replacement = || Settings::replacement(on_error, error);
    catch_unwind(AssertUnwindSafe(replacement)).unwrap_or_else(|_| {
        observe::on_error_panicked();
        String::new()
    })
}
