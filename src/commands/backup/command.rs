//! The output of a command, as something to read that fails if the command does.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{password, signals};

/// How often an ending command is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

pub struct CommandOutput {
    name: String,
    child: Arc<Mutex<Child>>,
    output: ChildStdout,
    ended: bool,
    _guard: signals::Guard,
}

impl CommandOutput {
    /// Starts the command, without what opens the repository in its environment.
    pub fn start(words: &[OsString]) -> Result<Self> {
        let (program, arguments) = words.split_first().context("there is no command")?;
        let name = program.to_string_lossy().into_owned();
        let mut command = Command::new(program);
        let command = password::without_secrets(&mut command).args(arguments);
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("can't run {name}"))?;
        let output = child.stdout.take().with_context(|| format!("{name} has no output"))?;
        let child = Arc::new(Mutex::new(child));
        let killed = child.clone();
        let guard = signals::on_stop(move || kill(&killed));
        Ok(Self { name, child, output, ended: false, _guard: guard })
    }

    /// Waits without holding the lock, so that a signal can still kill it.
    fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = lock(&self.child).try_wait()? {
                self.ended = true;
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
    }
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(|e| e.into_inner())
}

fn kill(child: &Mutex<Child>) {
    // One that has ended can't be killed, which is no harm.
    let _ = lock(child).kill();
}

impl Read for CommandOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.output.read(buffer)?;
        if read == 0 && !buffer.is_empty() && !self.ended {
            let status = self.wait()?;
            if !status.success() {
                let name = &self.name;
                let message = format!("{name} failed ({status}), so no snapshot was made");
                return Err(io::Error::other(message));
            }
        }
        Ok(read)
    }
}

impl Drop for CommandOutput {
    fn drop(&mut self) {
        if !self.ended {
            kill(&self.child);
            let _ = self.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> io::Result<String> {
        let words = ["sh", "-c", script].map(OsString::from);
        let mut text = String::new();
        let mut output = CommandOutput::start(&words).map_err(io::Error::other)?;
        output.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn output_counts_only_if_the_command_succeeds() {
        assert_eq!(run("echo all").ok().as_deref(), Some("all\n"));
        let error = run("echo some; exit 3").map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("sh failed (exit status: 3)")));
        assert!(CommandOutput::start(&["/no/such/program".into()]).is_err());
    }

    #[test]
    fn one_that_is_not_read_to_its_end_is_killed() {
        let words = ["sleep", "1000"].map(OsString::from);
        drop(CommandOutput::start(&words));
    }
}
