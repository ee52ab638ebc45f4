use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::globals::Globals;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  tresor completions bash > /etc/bash_completion.d/tresor
  tresor completions zsh > \"${fpath[1]}/_tresor\"
  tresor completions fish > ~/.config/fish/completions/tresor.fish";

/// Print a script that lets a shell complete tresor's commands and options
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub fn run(args: Args, _: &Globals) -> Result<Exit> {
    // Into memory first: the generator panics when it can't write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tresor", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
