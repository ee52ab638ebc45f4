use std::path::PathBuf;

use anyhow::Result;
use jiff::tz::TimeZone;
use serde::Serialize;
use tresor_engine::crypto::KdfCost;
use tresor_engine::repo::{Repository, SlotDescription};

use crate::exit::Exit;
use crate::globals::Globals;
use crate::table::Table;
use crate::{human, output, password};

const EXAMPLES: &str = "\
Examples:
  tresor key list
  tresor key add --label office
  tresor key passwd --new-password-file /root/new-password
  tresor key remove 1a2b3c4d

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password";

/// How long one try of a password takes on this machine, unless the floor takes longer.
pub const SECONDS: f64 = 0.15;

/// Manage the passwords of a repository
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Add a password; the others stay valid
    Add(AddArgs),
    /// List the key slots, one for each password
    List,
    /// Remove a password; it opens the repository no more
    ///
    /// Who had that password may have kept a copy of the repository's master key, which
    /// this doesn't change.
    Remove {
        /// First digits of the key slot's id, as `tresor key list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Change the password that the repository is opened with
    Passwd {
        #[command(flatten)]
        new: NewPassword,
    },
}

#[derive(clap::Args)]
struct AddArgs {
    /// What the key slot is called in `tresor key list` [default: user@host]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    #[command(flatten)]
    new: NewPassword,
}

#[derive(clap::Args)]
struct NewPassword {
    /// File that holds the new password [default: a prompt]
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
}

impl NewPassword {
    fn read(&self) -> Result<tresor_engine::crypto::Password> {
        password::further(self.new_password_file.as_deref())
    }
}

#[derive(Serialize)]
struct Slot {
    id: String,
    short_id: String,
    current: bool,
    label: Option<String>,
    created: Option<String>,
    memory_kib: Option<u32>,
    passes: Option<u32>,
    lanes: Option<u32>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct Changed {
    message_type: &'static str,
    id: String,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let repo = globals.open()?;
    match args.action {
        Action::List => list(&repo, globals)?,
        Action::Add(args) => {
            let password = args.new.read()?;
            let label = args.label.unwrap_or_else(default_label);
            let id = repo.add_key(&password, &label, KdfCost::calibrated(SECONDS))?;
            say(globals, "key_added", &id.to_string(), "added")?;
        }
        Action::Remove { id } => {
            let id = repo.find_key(&id)?;
            repo.remove_key(&id)?;
            say(globals, "key_removed", &id.to_string(), "removed")?;
        }
        Action::Passwd { new } => {
            let password = new.read()?;
            let slots = repo.key_slots()?;
            let info = slots.into_iter().find(|s| s.current).and_then(|s| s.info.ok());
            let label = info.map_or_else(default_label, |info| info.label);
            let id = repo.change_password(&password, &label, KdfCost::calibrated(SECONDS))?;
            let done =
                "is there now for the new password; the old one opens the repository no more";
            say(globals, "password_changed", &id.to_string(), done)?;
        }
    }
    Ok(Exit::Done)
}

/// `user@host`.
pub fn default_label() -> String {
    format!("{}@{}", tresor_platform::user_name(), tresor_platform::host_name())
}

fn say(globals: &Globals, message_type: &'static str, id: &str, done: &str) -> Result<()> {
    if globals.json {
        output::print_json(&Changed { message_type, id: id.to_owned() })?;
    } else if globals.wants_text() {
        output::print(&format!("key slot {} {done}\n", &id[..8.min(id.len())]))?;
    }
    Ok(())
}

fn list(repo: &Repository, globals: &Globals) -> Result<()> {
    let slots = repo.key_slots()?;
    if globals.json {
        output::print_json(&slots.iter().map(slot).collect::<Vec<_>>())?;
        return Ok(());
    }
    let zone = TimeZone::system();
    let mut table = Table::new(["", "ID", "Created", "Label", "Cost of a try"], &[]);
    for slot in &slots {
        let (created, label) = match &slot.info {
            Ok(info) => (human::time(info.created, &zone), info.label.clone()),
            Err(reason) => ("-".into(), format!("can't be read: {reason}")),
        };
        let cost = slot
            .cost
            .map(|c| format!("{}, {} passes", human::size(u64::from(c.memory) * 1024), c.passes));
        let mark = if slot.current { "*" } else { "" };
        table.row([mark.into(), slot.id.short(), created, label, cost.unwrap_or_default()]);
    }
    let mut text = table.text();
    if !globals.quiet {
        text.push_str("* opened with this one\n");
    }
    output::print(&text)?;
    Ok(())
}

fn slot(slot: &SlotDescription) -> Slot {
    let info = slot.info.as_ref().ok();
    Slot {
        id: slot.id.to_string(),
        short_id: slot.id.short(),
        current: slot.current,
        label: info.map(|i| i.label.clone()),
        created: info.map(|i| human::rfc3339(i.created, 0)),
        memory_kib: slot.cost.map(|c| c.memory),
        passes: slot.cost.map(|c| c.passes),
        lanes: slot.cost.map(|c| c.lanes),
        problem: slot.info.as_ref().err().cloned(),
    }
}
