//! The `tresor` command.

#[cfg(unix)]
mod background;
mod choose;
mod cli;
mod commands;
mod exit;
mod globals;
mod human;
mod json;
mod line;
mod output;
mod parse;
mod password;
mod progress;
mod scan;
mod signals;
mod table;
mod version_list;

fn main() -> std::process::ExitCode {
    cli::main()
}
