use anyhow::{Result, bail};
use serde::Serialize;
use tresor_engine::Error;
use tresor_engine::crypto::KdfCost;
use tresor_engine::format::{Config, ObjectName, ParityShare};
use tresor_engine::repo::{InitOptions, Repository};
use tresor_engine::store::Store;

use super::key;
use crate::exit::Exit;
use crate::globals::Globals;
use crate::{json, output, parse, password};

const EXAMPLES: &str = "\
Examples:
  tresor -r /mnt/backup/tresor init
  tresor -r /mnt/backup/tresor -p ~/.tresor-password init --label laptop
  tresor -r /media/usb/tresor init --parity 5%

The folder is made if it isn't there; the one above must be. The password can't be
reset: keep a copy of it in a safe place. `tresor key add` adds further ones.

With --parity 5% everything takes about 6 % more room, and bad sectors (up to 5 % of each
object) are made good: when it is read, and for good by `tresor repair objects`. It doesn't
help against the loss of the whole disk.

Exit codes: 0 done, 1 failed (also if there is a repository already)";

/// Make a new, empty repository
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What the password's key slot is called in `tresor key list` [default: user@host]
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Keep parity of all that is stored, so that damage of up to this share of an object can
    /// be mended without another copy; can't be changed later
    #[arg(long, value_name = "PERCENT", value_parser = parse::parity)]
    parity: Option<ParityShare>,
}

#[derive(Serialize)]
struct Initialized<'a> {
    message_type: &'static str,
    id: String,
    repository: &'a str,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    let store = globals.store()?;
    if store.size(&ObjectName::CONFIG).is_ok() {
        bail!(Error::RepositoryExists(store.describe()));
    }
    let password = password::first(&globals.password)?;
    let options = InitOptions {
        label: args.label.unwrap_or_else(key::default_label),
        cost: KdfCost::calibrated(key::SECONDS),
        parity: args.parity,
        chunks: Default::default(),
    };
    Repository::init(&store, &password, &options)?;
    report(&store, globals)?;
    Ok(Exit::Done)
}

fn report(store: &Store, globals: &Globals) -> Result<()> {
    let repository = store.describe();
    let id = json::hex(&Config::parse(&store.get(&ObjectName::CONFIG)?)?.repository);
    if globals.json {
        let message_type = "initialized";
        output::print_json(&Initialized { message_type, id, repository: &repository })?;
    } else if globals.wants_text() {
        output::print(&format!(
            "made repository {} at {repository}\nWithout the password nothing in it can be read, by nobody: keep a copy in a safe place.\n",
            &id[..8.min(id.len())],
        ))?;
    }
    Ok(())
}
