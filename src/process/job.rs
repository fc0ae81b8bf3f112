use super::watch;
use crate::json;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A function that runs in a process of its own: its fields are the arguments, [`run`](Self::run) is the body.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tower_promises::process::ProcessJob;
///
/// #[derive(Serialize, Deserialize)]
/// struct Parse {
///     text: String,
/// }
///
/// impl ProcessJob for Parse {
///     // What can fail says so: a panic is for bugs.
///     type Output = Result<f64, String>;
///
///     fn run(self) -> Self::Output {
///         self.text.parse().map_err(|error| format!("{error}"))
///     }
/// }
/// ```
///
/// It travels as JSON, and so does its output. JSON has no NaN and no infinities: in either they are
/// [`ProcessError::Serialize`](super::ProcessError::Serialize). `Some(())` and `Some(None)` arrive as `None`.
pub trait ProcessJob: Serialize + DeserializeOwned + Send + 'static {
    /// What it makes.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Does the work, in the child process.
    fn run(self) -> Self::Output;
}

/// What a child is given: the job as JSON, how many bytes its output may have, and the process id of the server.
pub(super) type Call = (String, u64, u32);

/// What a child gives back.
#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    /// The output as JSON.
    Output(String),
    /// It cannot read the job, for this reason.
    WrongJob(String),
    /// It cannot serialise the output, for this reason.
    WrongOutput(String),
    /// The output has this many bytes.
    TooLarge(u64),
}

/// The whole life of a child. A function pointer is all that can be sent to one, so this one knows the type.
pub(super) fn answer<J: ProcessJob>((job, max_bytes, server): Call) -> Reply {
    let _running = watch::begin(server);
    let job: J = match serde_json::from_str(&job) {
        Ok(job) => job,
        Err(error) => return Reply::WrongJob(error.to_string()),
    };
    match json::to_string(&job.run()) {
        Ok(output) if output.len() as u64 > max_bytes => Reply::TooLarge(output.len() as u64),
        Ok(output) => Reply::Output(output),
        Err(error) => Reply::WrongOutput(error.to_string()),
    }
}
