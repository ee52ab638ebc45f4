//! The command line as a whole, and the way to each command.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::commands as c;
use crate::exit::{self, Exit};
use crate::globals::Globals;
#[cfg(unix)]
use crate::mount_helper;
use crate::signals;

const HELP: &str = "\
First steps:
  export TRESOR_REPOSITORY=/mnt/backup/tresor
  tresor init                                   make a repository
  tresor backup ~/Documents                     save a folder
  tresor snapshots                              list what was saved
  tresor restore latest --target /tmp/restored  bring it back

SNAPSHOT is the first digits of an id, `latest`, `latest~N` (the one N before it), or a
date such as 2026-11-23, yesterday or 2026-11-23T14:30 (the last snapshot up to then).

The password comes from the first of these that is there: --password-file,
--password-command, TRESOR_PASSWORD_FILE, TRESOR_PASSWORD_COMMAND, TRESOR_PASSWORD, and
else a prompt on the terminal. It can't be reset: without it nothing can be read.

Environment: TRESOR_REPOSITORY, TRESOR_PASSWORD_FILE, TRESOR_PASSWORD_COMMAND,
TRESOR_PASSWORD, TRESOR_CACHE_DIR, TRESOR_STATE_DIR

Exit codes:
  0    done
  1    failed (for `check` and `scrub`: the repository has problems)
  3    done, but some files could not be read or restored; for `backup` also: they could not
       be held still, or the repository is damaged or was set back to an older state
  10   there is no repository
  12   wrong password
  130  interrupted
  141  whoever read the output has gone away";

/// Encrypted, deduplicated backups with a restore drive
#[derive(Parser)]
#[command(
    name = "tresor",
    version,
    after_help = HELP,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(c::init::Args),
    Backup(c::backup::Args),
    Snapshots(c::snapshots::Args),
    Ls(c::ls::Args),
    Mount(c::mount::Args),
    Umount(c::umount::Args),
    Service(c::service::Args),
    Restore(c::restore::Args),
    Cat(c::cat::Args),
    Diff(c::diff::Args),
    Find(c::find::Args),
    Versions(c::versions::Args),
    Stats(c::stats::Args),
    Forget(c::forget::Args),
    Prune(c::prune::Args),
    Check(c::check::Args),
    Scrub(c::scrub::Args),
    Repair(c::repair::Args),
    Key(c::key::Args),
    Completions(c::completions::Args),
}

impl Command {
    fn run(self, globals: &Globals) -> Result<Exit> {
        match self {
            Self::Init(args) => c::init::run(args, globals),
            Self::Backup(args) => c::backup::run(args, globals),
            Self::Snapshots(args) => c::snapshots::run(args, globals),
            Self::Ls(args) => c::ls::run(args, globals),
            Self::Mount(args) => c::mount::run(args, globals),
            Self::Umount(args) => c::umount::run(args, globals),
            Self::Service(args) => c::service::run(args, globals),
            Self::Restore(args) => c::restore::run(args, globals),
            Self::Cat(args) => c::cat::run(args, globals),
            Self::Diff(args) => c::diff::run(args, globals),
            Self::Find(args) => c::find::run(args, globals),
            Self::Versions(args) => c::versions::run(args, globals),
            Self::Stats(args) => c::stats::run(args, globals),
            Self::Forget(args) => c::forget::run(args, globals),
            Self::Prune(args) => c::prune::run(args, globals),
            Self::Check(args) => c::check::run(args, globals),
            Self::Scrub(args) => c::scrub::run(args, globals),
            Self::Repair(args) => c::repair::run(args, globals),
            Self::Key(args) => c::key::run(args, globals),
            Self::Completions(args) => c::completions::run(args, globals),
        }
    }
}

pub fn main() -> ExitCode {
    #[cfg(unix)]
    match mount_helper::request(std::env::args_os()) {
        None => {}
        Some(Ok(mount_helper::Request::Nothing)) => return Exit::Done.into(),
        Some(Ok(mount_helper::Request::Mount(line))) => {
            let done = run(line);
            return if done == Exit::Done.into() { done } else { mount_helper::FAILED.into() };
        }
        Some(Err(error)) => {
            exit::report(&error);
            return mount_helper::FAILED.into();
        }
    }
    run(std::env::args_os())
}

fn run(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(line) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but none to us.
            let _ = error.print();
            return if error.use_stderr() { Exit::Failed } else { Exit::Done }.into();
        }
    };
    tresor_platform::harden_process();
    tresor_platform::raise_file_limit();
    let done = signals::install().and_then(|()| cli.run());
    done.unwrap_or_else(|error| exit::report(&error)).into()
}

impl Cli {
    pub fn run(self) -> Result<Exit> {
        self.command.run(&self.globals)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
