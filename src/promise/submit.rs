use super::error::{Failure, PromiseError, SubmitError};
use super::registry::{Found, Present, Purpose};
use super::{IntoKey, Promises};
use crate::BoxError;
use crate::body::RequestBody;
use futures_util::FutureExt;

/// Submitting promises.
impl Promises {
    /// Registers a promise. The promise starts when the pass ends, or at once with
    /// [`Start::Eager`](super::Start::Eager), and runs concurrently with the others. Then the handler runs again and
    /// can read the [`result`](Self::result).
    ///
    /// If the name already has a pending promise, that promise is kept and `future` is dropped unpolled.
    ///
    /// The future runs within the request, not in a separate task. It is dropped when the client disconnects.
    ///
    /// ```
    /// use tower_promises::{BoxError, Promises};
    ///
    /// # async fn fetch_name() -> String { "Ferris".into() }
    /// # async fn count_messages() -> u64 { 7 }
    /// fn page(promises: &Promises) -> Result<String, BoxError> {
    ///     if promises.pass() == 1 {
    ///         // Both are registered before the first of them is read, so they run at the same time.
    ///         promises.submit("name", fetch_name())?;
    ///         promises.submit("messages", count_messages())?;
    ///     }
    ///     let (name, messages): (String, u64) = (promises.result("name")?, promises.result("messages")?);
    ///     Ok(format!("Hello, {name}! You have {messages} messages."))
    /// }
    /// # let promises = Promises::with_results(Default::default());
    /// # let _ = page(&promises);
    /// ```
    ///
    /// [`result_or_submit`](Self::result_or_submit) does both in one call.
    ///
    /// # Errors
    ///
    /// - [`AlreadyResolved`](SubmitError::AlreadyResolved) if the name has a result,
    /// - [`WrongType`](SubmitError::WrongType) if the name has a pending promise of another type,
    /// - [`TooManyPromises`](SubmitError::TooManyPromises) if the request has reached its limit,
    /// - [`Ended`](SubmitError::Ended) if the handle's pass is over.
    ///
    /// On an error `future` is dropped unpolled.
    pub fn submit<T, F>(&self, key: impl IntoKey<T>, future: F) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.register(key, |found| found.or_submit(|| future.map(Ok)))
    }

    /// Like [`submit`](Self::submit), for a future that can fail. Its error reads as [`PromiseError::Failed`], each
    /// time.
    ///
    /// # Errors
    ///
    /// Those of [`submit`](Self::submit).
    pub fn try_submit<T, E, F>(&self, key: impl IntoKey<T>, future: F) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.register(key, |found| found.or_submit(|| future.map(failed)))
    }

    /// Returns the result, or submits the promise if there is none with this name.
    ///
    /// ```
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// # async fn fetch_price(_: u32) -> u32 { 42 }
    /// fn price(promises: &Promises, item: u32) -> Result<String, PromiseError> {
    ///     // The closure is called only if there is no promise with this name.
    ///     let price = promises.result_or_submit(format!("price:{item}"), || fetch_price(item))?;
    ///     Ok(format!("{price} €"))
    /// }
    /// # let promises = Promises::with_results(Default::default());
    /// # assert!(price(&promises, 7).unwrap_err().is_pending());
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`result`](Self::result), with [`Pending`](PromiseError::Pending) instead of `NotSubmitted`,
    /// [`Ended`](PromiseError::Ended) if the promise would be a new one and the handle's pass is over, and
    /// [`Rejected`](PromiseError::Rejected) if the promise could not be submitted for another reason.
    pub fn result_or_submit<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.read_or(key, |found| found.or_submit(|| make().map(Ok)))
    }

    /// Like [`result_or_submit`](Self::result_or_submit), for a future that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit`](Self::result_or_submit).
    pub fn result_or_try_submit<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.read_or(key, |found| found.or_submit(|| make().map(failed)))
    }

    /// Passes the request body to a promise, which reads it as a stream: for an upload or a digest, for example. No
    /// part of the body is kept for later passes, which get an empty body.
    ///
    /// The promise gets the whole body, including parts that this pass has already read. Other readers of the body in
    /// this pass get [`ReplayError::Superseded`](crate::body::ReplayError::Superseded). The client can send only as
    /// fast as the promise reads. The promise handles errors of the body.
    ///
    /// ```
    /// use http_body_util::BodyExt;
    /// use tower_promises::{PromiseError, Promises};
    ///
    /// fn page(promises: &Promises) -> Result<String, PromiseError> {
    ///     let size = promises.result_or_try_submit_body("size", async |mut body| {
    ///         let mut size = 0;
    ///         while let Some(frame) = body.frame().await {
    ///             size += frame?.data_ref().map_or(0, |data| data.len());
    ///         }
    ///         Ok::<_, tower_promises::BoxError>(size)
    ///     })?;
    ///     Ok(format!("{size} bytes"))
    /// }
    /// # let _ = page;
    /// ```
    ///
    /// # Errors
    ///
    /// - Those of [`submit`](Self::submit),
    /// - [`BodyTaken`](SubmitError::BodyTaken) if another promise has the body,
    /// - [`BodyRead`](SubmitError::BodyRead) if more of the body was read than is kept for replay.
    pub fn submit_body<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.register(key, |found| found.or_submit_body(|body| make(body).map(Ok)))
    }

    /// Like [`submit_body`](Self::submit_body), for a future that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`submit_body`](Self::submit_body).
    pub fn try_submit_body<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.register(key, |found| {
            found.or_submit_body(|body| make(body).map(failed))
        })
    }

    /// Returns the result, or [passes the body](Self::submit_body) to a new promise with this name.
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit`](Self::result_or_submit). [`Rejected`](PromiseError::Rejected) includes the errors
    /// of [`submit_body`](Self::submit_body).
    pub fn result_or_submit_body<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.read_or(key, |found| found.or_submit_body(|body| make(body).map(Ok)))
    }

    /// Like [`result_or_submit_body`](Self::result_or_submit_body), for a future that can fail.
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit_body`](Self::result_or_submit_body).
    pub fn result_or_try_submit_body<T, E, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.read_or(key, |found| {
            found.or_submit_body(|body| make(body).map(failed))
        })
    }

    /// Keeps the promise that is found, or submits one.
    pub(super) fn register<T>(
        &self,
        key: impl IntoKey<T>,
        submit: impl FnOnce(Found<'_, T>) -> Result<Present, Box<SubmitError>>,
    ) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
    {
        let key = key.into_key();
        let found = self.registry.find(self.reader(), &key, Purpose::Submit);
        found.and_then(submit).map(drop).map_err(|error| *error)
    }

    /// Reads the promise that is found, or submits one.
    pub(super) fn read_or<T>(
        &self,
        key: impl IntoKey<T>,
        submit: impl FnOnce(Found<'_, T>) -> Result<Present, Box<SubmitError>>,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        let key = key.into_key();
        let found = self.registry.find(self.reader(), &key, Purpose::Read);
        let submitted = match found {
            // Most reads end here.
            Ok(Found::Promise(present)) => return present.read(key),
            Ok(Found::Nothing(reservation, kind)) => submit(Found::Nothing(reservation, kind)),
            Err(error) => Err(error),
        };
        match submitted {
            Ok(Present::Pending) => Err(PromiseError::Pending { key }),
            Ok(present) => present.read(key),
            Err(error) => Err(error.into_promise_error()),
        }
    }
}

pub(super) fn failed<T, E: Into<BoxError>>(result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| Failure::Failed(error.into().into()))
}
