//! Where passwords come from. They never stand on a command line.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write, stdin};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tresor_engine::crypto::Password;

use crate::text_file;

const PASSWORD: &str = "TRESOR_PASSWORD";
const PASSWORD_FILE: &str = "TRESOR_PASSWORD_FILE";
const PASSWORD_COMMAND: &str = "TRESOR_PASSWORD_COMMAND";
/// How often a wrong password may be typed.
pub const ATTEMPTS: usize = 3;
/// So many bytes are no password.
const MOST: usize = 1 << 20;

// The environment is looked at by hand, so that an option always goes before it.
#[derive(clap::Args, Debug)]
pub struct PasswordArgs {
    /// File that holds the password (a line break at its end doesn't count) [env: TRESOR_PASSWORD_FILE]
    #[arg(short = 'p', long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Shell command that prints the password [env: TRESOR_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", conflicts_with = "password_file")]
    pub password_command: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Given,
    Prompt,
}

impl Origin {
    pub fn is_prompt(self) -> bool {
        self == Self::Prompt
    }
}

/// The password of an existing repository.
pub fn current(args: &PasswordArgs, repository: &str) -> Result<(Password, Origin)> {
    match given(args)? {
        Some(password) => Ok((password, Origin::Given)),
        None => Ok((prompt(&format!("Password of {repository}: "))?, Origin::Prompt)),
    }
}

/// The first password of a new repository; a prompt asks twice.
pub fn first(args: &PasswordArgs) -> Result<Password> {
    match given(args)? {
        Some(password) => Ok(password),
        None => chosen("Password of the new repository: "),
    }
}

/// A further password; a prompt asks twice.
pub fn further(file: Option<&Path>) -> Result<Password> {
    match file {
        Some(file) => from_file(file),
        None => chosen("New password: "),
    }
}

pub fn try_again() -> Result<()> {
    io::stderr().write_all(b"That is not it. Try again.\n")?;
    Ok(())
}

/// Something outside of this process that gives a password.
pub enum Source {
    File(PathBuf),
    Command(String),
}

impl PasswordArgs {
    /// What gives the password, unless it is told in the environment, or by a person.
    pub fn source(&self) -> Result<Option<Source>> {
        let env = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        if let Some(file) = &self.password_file {
            return Ok(Some(Source::File(file.clone())));
        }
        if let Some(command) = &self.password_command {
            return Ok(Some(Source::Command(command.clone())));
        }
        if let Some(file) = env(PASSWORD_FILE) {
            return Ok(Some(Source::File(file.into())));
        }
        let Some(command) = env(PASSWORD_COMMAND) else { return Ok(None) };
        let command = command.into_string().ok().context("TRESOR_PASSWORD_COMMAND is no text")?;
        Ok(Some(Source::Command(command)))
    }
}

fn given(args: &PasswordArgs) -> Result<Option<Password>> {
    match args.source()? {
        Some(Source::File(file)) => return from_file(&file).map(Some),
        Some(Source::Command(command)) => return from_command(&command).map(Some),
        None => {}
    }
    match std::env::var_os(PASSWORD).map(|value| Password::new(value.into_encoded_bytes())) {
        Some(empty) if empty.is_empty() => {
            bail!("TRESOR_PASSWORD is empty, and an empty password protects nothing")
        }
        password => Ok(password),
    }
}

fn from_file(file: &Path) -> Result<Password> {
    let bytes = File::open(file)
        .and_then(read)
        .with_context(|| format!("can't read the password from {}", file.display()))?;
    let password = as_written(bytes)
        .with_context(|| format!("the password file {} can't be used", file.display()))?;
    if password.is_empty() {
        bail!(
            "the password file {} is empty, and an empty password protects nothing",
            file.display()
        );
    }
    Ok(password)
}

fn from_command(command: &str) -> Result<Password> {
    let mut shell = shell(command);
    // What comes from elsewhere than a terminal isn't for it: `backup --stdin` saves that.
    let stdin = if stdin().is_terminal() { Stdio::inherit() } else { Stdio::null() };
    let shell = without_secrets(&mut shell).stdin(stdin).stdout(Stdio::piped());
    let mut running = shell.spawn().context("can't run the password command")?;
    let bytes = running.stdout.take().map_or_else(|| Ok(Password::default()), read);
    let status = running.wait().context("can't run the password command")?;
    if !status.success() {
        bail!("the password command failed ({status})");
    }
    let bytes = bytes.context("can't read what the password command prints")?;
    let password = as_written(bytes).context("what the password command prints can't be used")?;
    if password.is_empty() {
        bail!("the password command printed nothing, and an empty password protects nothing");
    }
    Ok(password)
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.args(["/C", command]);
    shell
}

/// Takes what opens the repository out of the environment of a program to be started.
pub fn without_secrets(command: &mut Command) -> &mut Command {
    command.env_remove(PASSWORD).env_remove(PASSWORD_COMMAND)
}

/// Reads a password into room that is large enough from the start: what is moved to a larger
/// one stays behind in memory, and nobody wipes it.
pub fn read(source: impl Read) -> io::Result<Password> {
    let mut password = Password::new(Vec::with_capacity(MOST));
    source.take(MOST as u64).read_to_end(&mut password)?;
    if password.len() == MOST {
        return Err(io::Error::other("a password of a megabyte or more"));
    }
    Ok(password)
}

/// Without what an editor puts around it: the mark of UTF-8 at its beginning, and a line break at its end.
fn as_written(mut bytes: Password) -> Result<Password> {
    if text_file::is_utf16(&bytes) {
        bail!(
            "it is in UTF-16: save it as UTF-8, or the password is another one than the typed one"
        );
    }
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    let start = bytes.len() - text_file::without_mark(&bytes).len();
    bytes.copy_within(start.., 0);
    for _ in 0..start {
        bytes.pop();
    }
    Ok(bytes)
}

fn chosen(question: &str) -> Result<Password> {
    if can_ask() {
        let note = "The password can't be reset: who loses it loses the backups. Keep a copy in a safe place.\n";
        io::stderr().write_all(note.as_bytes())?;
    }
    let password = prompt(question)?;
    if password != prompt("The same again: ")? {
        bail!("the two are not the same; nothing was changed");
    }
    Ok(password)
}

fn can_ask() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

fn prompt(question: &str) -> Result<Password> {
    let no_way = "there is no password and no terminal to ask for it: use --password-file or --password-command, or set TRESOR_PASSWORD_FILE, TRESOR_PASSWORD_COMMAND or TRESOR_PASSWORD";
    if !can_ask() {
        bail!(no_way);
    }
    let typed = rpassword::prompt_password(question).context(no_way)?;
    let password = Password::new(typed.into_bytes());
    if password.is_empty() {
        bail!("the password is empty, and an empty password protects nothing");
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_editor_adds_is_not_part_of_a_password() {
        let breaks: [(&[u8], &[u8]); 5] =
            [(b"x\n", b"x"), (b"x\r\n", b"x"), (b"x\n\n", b"x\n"), (b" x ", b" x "), (b"\n", b"")];
        let marks: [(&[u8], &[u8]); 4] = [
            (b"\xef\xbb\xbfx\r\n", b"x"),
            (b"\xef\xbb\xbf\n", b""),
            (b"\xef\xbbx", b"\xef\xbbx"),
            // Random bytes may begin so.
            (b"\xff\xfex", b"\xff\xfex"),
        ];
        for (file, password) in breaks.into_iter().chain(marks) {
            let read = as_written(Password::new(file.to_vec())).unwrap();
            assert_eq!(read.as_slice(), password);
        }
        for wide in [b"\xff\xfex\0\n\0", b"\xfe\xff\0x\0\n"] {
            let error = as_written(Password::new(wide.to_vec())).unwrap_err().to_string();
            assert!(error.contains("UTF-16"), "{error}");
        }
    }

    #[test]
    fn what_is_too_long_is_no_password() {
        assert_eq!(read(&[b'x'; MOST - 1][..]).unwrap().len(), MOST - 1);
        assert!(read(&[b'x'; MOST][..]).is_err());
    }

    #[test]
    fn a_command_prints_the_password() {
        assert_eq!(from_command("echo secret").ok().as_deref(), Some(&b"secret".to_vec()));
        assert!(from_command("echo secret; exit 3").is_err());
        assert!(from_command("true").is_err());
    }
}
