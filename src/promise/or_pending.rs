use super::PromiseError;

/// Replaces a pending value by a placeholder.
///
/// ```
/// use tower_promises::{OrPending, PromiseError, Promises};
///
/// # async fn fetch_name() -> String { "Ferris".into() }
/// # async fn count_messages() -> u64 { 7 }
/// fn page(promises: &Promises) -> Result<String, PromiseError> {
///     // Without a placeholder, the first pass would end here, and not request the messages.
///     let name = promises.result_or_submit("name", fetch_name).or_pending(String::new())?;
///     let messages = promises.result_or_submit("messages", count_messages).or_pending(0)?;
///     Ok(format!("Hello, {name}! You have {messages} messages."))
/// }
/// # let promises = Promises::with_results(Default::default());
/// # page(&promises).unwrap();
/// # assert_eq!(promises.keys(), ["name", "messages"]);
/// ```
///
/// This trait is sealed.
pub trait OrPending<T>: sealed::Sealed + Sized {
    /// Replaces [`PromiseError::Pending`] by `placeholder`. Values and other errors are returned unchanged.
    ///
    /// With a placeholder the handler can reach the end of a pass whose response is discarded, so that the code that
    /// follows registers its promises in the same pass.
    ///
    /// # Errors
    ///
    /// Any error except [`PromiseError::Pending`].
    fn or_pending(self, placeholder: T) -> Result<T, PromiseError>;
}

impl<T> OrPending<T> for Result<T, PromiseError> {
    fn or_pending(self, placeholder: T) -> Self {
        match self {
            Err(PromiseError::Pending { key }) => {
                #[cfg(feature = "tracing")]
                if let Some(promises) = super::Promises::current() {
                    promises.registry.accept_placeholder(&key);
                }
                #[cfg(not(feature = "tracing"))]
                let _ = key;
                Ok(placeholder)
            }
            other => other,
        }
    }
}

mod sealed {
    use super::PromiseError;

    pub trait Sealed {}

    impl<T> Sealed for Result<T, PromiseError> {}
}
