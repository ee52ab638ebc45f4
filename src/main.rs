//! The `tresor` command.

mod background;
mod choose;
mod cli;
mod commands;
mod drive_args;
mod drive_status;
mod exit;
mod globals;
mod human;
mod json;
mod line;
#[cfg(unix)]
mod mount_helper;
mod nfs_drive;
mod output;
mod parse;
mod password;
mod progress;
mod setback;
mod signals;
mod table;
mod text_file;
mod version_list;

#[global_allocator]
static ALLOCATOR: tresor_platform::Allocator = tresor_platform::ALLOCATOR;

fn main() -> std::process::ExitCode {
    cli::main()
}
