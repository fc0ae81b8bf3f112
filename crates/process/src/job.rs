use super::watch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tower_promises_backend::kit::json;

/// A function that runs in a process of its own. The fields are its arguments, and [`run`](Self::run) is its body.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tower_promises_process::ProcessJob;
///
/// #[derive(Serialize, Deserialize)]
/// struct Parse {
///     text: String,
/// }
///
/// impl ProcessJob for Parse {
///     // A failure is a value. A panic is for bugs.
///     type Output = Result<f64, String>;
///
///     fn run(self) -> Self::Output {
///         self.text.parse().map_err(|error| format!("{error}"))
///     }
/// }
/// ```
///
/// Job and output are sent as JSON, which has neither NaN nor infinities: they cause a
/// [`ProcessError::Serialize`](super::ProcessError::Serialize). `Some(())` and `Some(None)` arrive as `None`.
pub trait ProcessJob: Serialize + DeserializeOwned + Send + 'static {
    /// The type of the output.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Runs the job. This function is called in the child process.
    fn run(self) -> Self::Output;
}

/// The input of a child: the job as JSON, the maximum size of its output in bytes, and the process id of the server.
pub(super) type Call = (String, usize, u32);

/// The result of a child.
#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    /// The output as JSON.
    Output(String),
    /// The child cannot read the job, for this reason.
    WrongJob(String),
    /// The child cannot serialise the output, for this reason.
    WrongOutput(String),
    /// The output is too large. This is its size in bytes.
    TooLarge(usize),
}

/// The entry point of a child. Only a function pointer can be sent to a process, so the function is generic over the
/// job.
pub(super) fn answer<J: ProcessJob>((job, max_bytes, server): Call) -> Reply {
    let _running = watch::begin(server);
    let job: J = match serde_json::from_str(&job) {
        Ok(job) => job,
        Err(error) => return Reply::WrongJob(error.to_string()),
    };
    match json::to_string(&job.run()) {
        Ok(output) if output.len() > max_bytes => Reply::TooLarge(output.len()),
        Ok(output) => Reply::Output(output),
        Err(error) => Reply::WrongOutput(error.to_string()),
    }
}
