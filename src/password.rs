//! Where passwords come from. They never stand on a command line.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tresor_engine::crypto::Password;

const PASSWORD: &str = "TRESOR_PASSWORD";
const PASSWORD_FILE: &str = "TRESOR_PASSWORD_FILE";
const PASSWORD_COMMAND: &str = "TRESOR_PASSWORD_COMMAND";
/// How often a wrong password may be typed.
pub const ATTEMPTS: usize = 3;

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
    let bytes = std::fs::read(file)
        .with_context(|| format!("can't read the password from {}", file.display()))?;
    let password = first_line(Password::new(bytes));
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
    let shell = without_secrets(&mut shell).stderr(Stdio::inherit()).stdin(Stdio::inherit());
    let output = shell.output().context("can't run the password command")?;
    let password = first_line(Password::new(output.stdout));
    if !output.status.success() {
        bail!("the password command failed ({})", output.status);
    }
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

/// Without the line break at its end.
fn first_line(mut bytes: Password) -> Password {
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    bytes
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
    fn one_line_break_is_not_part_of_a_password() {
        let cases: [(&[u8], &[u8]); 5] =
            [(b"x\n", b"x"), (b"x\r\n", b"x"), (b"x\n\n", b"x\n"), (b" x ", b" x "), (b"\n", b"")];
        for (file, password) in cases {
            assert_eq!(first_line(Password::new(file.to_vec())).as_slice(), password);
        }
    }

    #[test]
    fn a_command_prints_the_password() {
        assert_eq!(from_command("echo secret").ok().as_deref(), Some(&b"secret".to_vec()));
        assert!(from_command("echo secret; exit 3").is_err());
        assert!(from_command("true").is_err());
    }
}
