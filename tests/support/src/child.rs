//! Another process of a test: the program of the test again, which runs one of its ignored tests.

use crate::eventually::line_after;
use std::ffi::OsStr;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Another process. It is killed on drop.
pub struct ChildProcess(Child);

impl ChildProcess {
    /// Starts an ignored test of this program, which calls [`end_with_parent`], with further environment variables. Waits
    /// for the first line of its output that has the text `marker`, and returns what follows there.
    ///
    /// # Panics
    ///
    /// Panics if the process does not start, or does not write such a line in time.
    pub fn start(
        test: &str,
        environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
        marker: &'static str,
    ) -> (Self, String) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let process = Self(child);
        let rest = line_after(marker, output);
        (process, rest)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Kills the process, as `kill -9` does.
    ///
    /// # Panics
    ///
    /// Panics if the process cannot be killed.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits until the process has ended by itself. Blocks the thread.
    ///
    /// # Panics
    ///
    /// Panics if the system does not know the process.
    pub fn wait(mut self) -> ExitStatus {
        // Waiting would close the standard input, which would end the process.
        let stdin = self.0.stdin.take();
        let status = self.0.wait().unwrap();
        drop(stdin);
        status
    }

    /// Returns the exit status, if the process has ended.
    ///
    /// # Panics
    ///
    /// Panics if the system does not know the process.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends this process when the process that started it ends, in any way.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}
