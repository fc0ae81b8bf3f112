use super::error::{Failure, PromiseError, SubmitError};
use super::registry::{Admission, Demand, Vacancy};
use super::slot::Work;
use super::{IntoKey, Key, Promises};
use crate::BoxError;
use crate::body::RequestBody;
use futures_util::FutureExt;

/// Submitting.
impl Promises {
    /// Registers a promise. It starts when the pass ends, or at once with [`Start::Eager`](super::Start::Eager), and
    /// runs at the same time as the others; then the handler runs again and finds the [`result`](Self::result).
    ///
    /// A name that is pending already stays the promise it is: `future` is dropped unpolled.
    ///
    /// The future runs within the request, not in a task of its own. It is dropped when the client goes away.
    ///
    /// # Errors
    ///
    /// [`AlreadyResolved`](SubmitError::AlreadyResolved) where the name has a result,
    /// [`WrongType`](SubmitError::WrongType) where it is pending with another type,
    /// [`TooManyPromises`](SubmitError::TooManyPromises), and [`Ended`](SubmitError::Ended) where the handle's pass
    /// is over. `future` is dropped unpolled.
    pub fn submit<T, F>(&self, key: impl IntoKey<T>, future: F) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let future = future.map(Ok);
        self.register(key.into_key(), Demand::Submitted, future)
            .map(drop)
    }

    /// [`submit`](Self::submit) for a future that can fail. An error becomes
    /// [`PromiseError::Failed`] at each read.
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
        let future = future.map(failed);
        self.register(key.into_key(), Demand::Submitted, future)
            .map(drop)
    }

    /// Reads the result, or submits the promise if nobody has.
    ///
    /// # Errors
    ///
    /// Those of [`result`](Self::result), where `NotSubmitted` becomes [`Pending`](PromiseError::Pending), or
    /// [`Rejected`](PromiseError::Rejected) if the promise could not be submitted.
    pub fn result_or_submit<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.read_or_register(key.into_key(), || make().map(Ok))
    }

    /// [`result_or_submit`](Self::result_or_submit) for a future that can fail.
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
        self.read_or_register(key.into_key(), || make().map(failed))
    }

    /// Hands the body of the request to a promise, which reads it as a stream in its own time: an upload,
    /// a digest. Nothing of it is kept for later passes, which see an empty body.
    ///
    /// The promise gets the whole body, also if this pass has read some of it. Whoever still reads it in
    /// this pass gets [`ReplayError::Superseded`](crate::body::ReplayError::Superseded). The client is held
    /// back as the promise reads, and an error of the body is the promise's to handle.
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
    /// Those of [`submit`](Self::submit), [`BodyTaken`](SubmitError::BodyTaken) where another promise has the body,
    /// and [`BodyRead`](SubmitError::BodyRead) where more of it was read than is kept for replay.
    pub fn submit_body<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<(), SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let make = |body| make(body).map(Ok);
        self.register_body(key.into_key(), Demand::Submitted, make)
            .map(drop)
    }

    /// [`submit_body`](Self::submit_body) for a future that can fail.
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
        let make = |body| make(body).map(failed);
        self.register_body(key.into_key(), Demand::Submitted, make)
            .map(drop)
    }

    /// Reads the result, or [hands the body](Self::submit_body) to a new promise of this name.
    ///
    /// # Errors
    ///
    /// Those of [`result_or_submit`](Self::result_or_submit), where [`Rejected`](PromiseError::Rejected) includes
    /// those of [`submit_body`](Self::submit_body).
    pub fn result_or_submit_body<T, F>(
        &self,
        key: impl IntoKey<T>,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.read_or(key.into_key(), |key, _| {
            self.register_body(key, Demand::Missed, |body| make(body).map(Ok))
        })
    }

    /// [`result_or_submit_body`](Self::result_or_submit_body) for a future that can fail.
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
        self.read_or(key.into_key(), |key, _| {
            self.register_body(key, Demand::Missed, |body| make(body).map(failed))
        })
    }

    pub(super) fn register<T, F>(
        &self,
        key: Key,
        demand: Demand,
        future: F,
    ) -> Result<Admission, SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let vacancy = Vacancy::default();
        let work = Box::pin(future);
        self.registry.submit(self.pass, key, demand, vacancy, work)
    }

    pub(super) fn read_or_register<T, F>(
        &self,
        key: Key,
        make: impl FnOnce() -> F,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        self.read_or(key, |key, vacancy| {
            let work = Box::pin(make());
            let demand = Demand::Missed;
            self.registry.submit(self.pass, key, demand, vacancy, work)
        })
    }

    fn register_body<T, F>(
        &self,
        key: Key,
        demand: Demand,
        make: impl FnOnce(RequestBody) -> F,
    ) -> Result<Admission, SubmitError>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let work = |body| Box::pin(make(body)) as Work<T>;
        self.registry.submit_body(self.pass, key, demand, work)
    }

    /// Reads the result, or registers the promise if nobody has.
    fn read_or<T>(
        &self,
        key: Key,
        register: impl FnOnce(Key, Vacancy) -> Result<Admission, SubmitError>,
    ) -> Result<T, PromiseError>
    where
        T: Clone + Send + Sync + 'static,
    {
        let vacancy = match self.find(&key) {
            Ok(read) => return read,
            Err(vacancy) => vacancy,
        };
        match register(key.clone(), vacancy) {
            Ok(Admission::Pending) => Err(PromiseError::Pending { key }),
            Ok(Admission::TimedOut) => Err(PromiseError::TimedOut { key }),
            // Another thread was faster.
            Err(SubmitError::AlreadyResolved { .. }) => self.read(&key),
            Err(error) => Err(PromiseError::Rejected { error }),
        }
    }
}

pub(super) fn failed<T, E: Into<BoxError>>(result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| Failure::Failed(error.into().into()))
}
