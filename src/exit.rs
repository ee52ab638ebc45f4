//! How a command ends: its exit code, and the message that goes with it.

use std::io;
use std::process::ExitCode;

use anyhow::Error;
use tresor_engine::Error as Engine;

use crate::output;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    /// Done, but some files could not be read or restored.
    Incomplete,
    NoRepository,
    WrongPassword,
    /// Also used by the signal thread.
    Interrupted,
    /// Whoever read our output has gone away.
    BrokenPipe,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Incomplete => 3,
            Self::NoRepository => 10,
            Self::WrongPassword => 12,
            Self::Interrupted => 130,
            Self::BrokenPipe => 141,
        }
    }

    /// How a process of this program ended that left this code.
    pub fn of_code(code: i32) -> Self {
        let all = [
            Self::Done,
            Self::Incomplete,
            Self::NoRepository,
            Self::WrongPassword,
            Self::Interrupted,
            Self::BrokenPipe,
        ];
        all.into_iter().find(|exit| i32::from(exit.code()) == code).unwrap_or(Self::Failed)
    }

    /// Done, unless there were errors with single files.
    pub fn unless(errors: u64) -> Self {
        if errors == 0 { Self::Done } else { Self::Incomplete }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Ends the program, whatever else it is doing. Who has started it as a service hears of it.
pub fn now(exit: Exit) -> ! {
    tresor_platform::service::ended(exit.code());
    std::process::exit(exit.code().into())
}

/// Says what went wrong and gives the exit code for it.
pub fn report(error: &Error) -> Exit {
    let exit = of(error);
    // The reader of our output wants no more: nobody needs to hear about it.
    if exit != Exit::BrokenPipe {
        output::complain(&format!("{error:#}"));
    }
    exit
}

pub fn of(error: &Error) -> Exit {
    for cause in error.chain() {
        let io = cause.downcast_ref::<io::Error>();
        if io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return Exit::BrokenPipe;
        }
        match cause.downcast_ref::<Engine>() {
            Some(Engine::NoRepository(_)) => return Exit::NoRepository,
            Some(Engine::WrongPassword(_) | Engine::UnreadableSlots { others: true, .. }) => {
                return Exit::WrongPassword;
            }
            Some(Engine::Interrupted) => return Exit::Interrupted,
            Some(Engine::Io { error, .. }) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Exit::BrokenPipe;
            }
            _ => {}
        }
    }
    Exit::Failed
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn codes_are_found_below_context() {
        let wrong = Error::from(Engine::WrongPassword("x".into())).context("opening it");
        assert_eq!(of(&wrong), Exit::WrongPassword);
        assert_eq!(of(&Engine::NoRepository("x".into()).into()), Exit::NoRepository);
        assert_eq!(of(&Engine::Interrupted.into()), Exit::Interrupted);
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let lost: anyhow::Result<()> = Err(broken()).context("can't write");
        assert_eq!(lost.as_ref().map_err(of), Err(Exit::BrokenPipe));
        assert_eq!(of(&Engine::io("can't write", broken()).into()), Exit::BrokenPipe);
        assert_eq!(of(&anyhow::anyhow!("else")), Exit::Failed);
    }
}
