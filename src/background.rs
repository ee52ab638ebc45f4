//! `mount --background`: a second process of this program serves the drive. It
//! gets the password through a pipe, so that it stands nowhere else, and says
//! through another one when the drive answers.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tresor_engine::repo::Repository;
use tresor_platform::service;

use crate::commands::mount::Args;
use crate::exit::Exit;
use crate::globals::Globals;
use crate::{output, password};

const READY: &[u8] = b"ready\n";
/// Longer answers aren't given.
const MOST_ANSWER: u64 = 1 << 16;

/// Starts the process that serves the drive and waits until it does.
pub fn start(args: &Args, globals: &Globals) -> Result<Exit> {
    let store = globals.existing_store()?;
    let (password, _) = password::current(&globals.password, &store.describe())?;
    let mut command = command(args, globals)?;
    let mut child = tresor_platform::detach(&mut command)
        .spawn()
        .context("can't start the process that serves the drive")?;
    if let Some(mut pipe) = child.stdin.take() {
        // If it has ended already, its exit code tells more.
        let _ = pipe.write_all(&password);
    }
    let mut answer = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(MOST_ANSWER).read_to_end(&mut answer)?;
    }
    if let Some(text) = answer.strip_prefix(READY) {
        if !globals.quiet {
            output::print(&String::from_utf8_lossy(text))?;
        }
        return Ok(Exit::Done);
    }
    let status = child.wait()?;
    match status.code() {
        // It has said why.
        Some(code) => Ok(Exit::of_code(code)),
        None => bail!("the process that serves the drive ended ({status})"),
    }
}

fn command(args: &Args, globals: &Globals) -> Result<Command> {
    let program = std::env::current_exe().context("can't find this program's own file")?;
    let mut more: Vec<OsString> = vec!["--serve".into()];
    for (option, folder) in
        [("--cache-dir", &globals.cache_dir), ("--state-dir", &globals.state_dir)]
    {
        more.extend(folder.iter().flat_map(|folder| [option.into(), folder.into()]));
    }
    more.extend(globals.json.then(|| "--json".into()));
    more.extend(globals.accept_older_state.then(|| "--accept-older-state".into()));
    let mut command = Command::new(program);
    command.args(args.drive.line(&args.drive.what, more, globals)?);
    password::without_secrets(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// In the process that serves: opens the repository with the password from the pipe.
pub fn open(globals: &Globals) -> Result<Arc<Repository>> {
    let password = password::read(unbuffered_input()?).context("can't read the password")?;
    globals.open_with(&password)
}

/// Standard input without the library's buffer, which keeps what went through it.
fn unbuffered_input() -> io::Result<File> {
    #[cfg(unix)]
    let input = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?;
    #[cfg(windows)]
    let input = std::os::windows::io::AsHandle::as_handle(&io::stdin()).try_clone_to_owned()?;
    Ok(File::from(input))
}

/// Tells people, or a program that reads JSON, where the drive is: at once, or through the
/// command that has started this process in the background; and the system, if that has
/// started it.
pub fn say(in_background: bool, globals: &Globals, text: &str) -> Result<()> {
    service::ready();
    if in_background {
        ready(text)
    } else if globals.quiet {
        Ok(())
    } else {
        Ok(output::print(text)?)
    }
}

/// In the process that serves: tells that the drive answers, and lets go of the
/// terminal and of the folder it was started in.
fn ready(text: &str) -> Result<()> {
    // Not before: where an automount waits for the drive, only the group of processes that
    // systemd has started to mount it may touch the folder.
    tresor_platform::leave_terminal();
    let mut out = std::io::stdout();
    out.write_all(READY)?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let _ = std::env::set_current_dir("/");
    Ok(tresor_platform::leave_streams()?)
}
