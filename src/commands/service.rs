use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::Serialize;
use tresor_engine::Error;
use tresor_engine::crypto::Password;
use tresor_engine::repo::Repository;
use tresor_mountfs::system::mount_point;
use tresor_platform::service::{
    Service, ServiceError, Services, check_name, is_administrator, services,
};

use crate::drive_args::DriveArgs;
use crate::exit::Exit;
use crate::globals::Globals;
use crate::password::Source;
use crate::{output, signals};

const EXAMPLES: &str = "\
Examples:
  tresor service install restore /mnt/restore        mounted now, and whenever the system starts
  tresor service install restore R:                  on Windows, from a prompt of an administrator
  tresor service install --user home latest ~/Restore  the newest snapshot, while I am logged in
  tresor service list
  tresor service remove restore                      unmounts, too

The system starts it: systemd, launchd or Windows' services. The password is kept in a file that
only the account of the service can read, unless it comes from --password-file or
--password-command, which are then used each time. docs/drive.md says more.

Exit codes: 0 done, 1 failed, 10 no repository, 12 wrong password";

/// Have the system keep drives mounted
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Install(Install),
    Remove(Remove),
    List(List),
    #[cfg(windows)]
    #[command(hide = true)]
    Run(Run),
}

/// Mount a drive now, and whenever the system starts
#[derive(clap::Args)]
#[command(
    override_usage = "tresor service install [OPTIONS] NAME [SNAPSHOT] MOUNTPOINT",
    after_help = EXAMPLES
)]
struct Install {
    /// What to call it: letters a to z, digits, and -
    name: String,

    #[command(flatten)]
    drive: DriveArgs,

    #[command(flatten)]
    whose: Whose,
}

/// Unmount such a drive, and forget it
#[derive(clap::Args)]
struct Remove {
    name: String,

    #[command(flatten)]
    whose: Whose,
}

/// Name the drives that the system keeps mounted
#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    whose: Whose,
}

#[derive(clap::Args)]
struct Whose {
    /// With this user's session, not with the system; without being root it can't be otherwise
    #[arg(long, hide = cfg!(windows))]
    user: bool,
}

impl Whose {
    fn services(&self) -> Result<Box<dyn Services>> {
        Ok(services(self.user || !is_administrator())?)
    }
}

/// What Windows' service manager starts
#[cfg(windows)]
#[derive(clap::Args)]
struct Run {
    name: String,
    #[arg(last = true)]
    line: Vec<OsString>,
}

/// What `list --json` says; docs/json.md describes it.
#[derive(Serialize)]
struct Listed {
    message_type: &'static str,
    name: String,
    running: bool,
}

pub fn run(args: Args, globals: &Globals) -> Result<Exit> {
    match args.action {
        #[cfg(not(windows))]
        Action::Install(args) => install(&args, globals),
        #[cfg(windows)]
        Action::Install(mut args) => {
            args.drive.reader.get_or_insert_with(installer);
            install(&args, globals)
        }
        Action::Remove(args) => remove(&args),
        Action::List(args) => list(&args, globals),
        #[cfg(windows)]
        Action::Run(args) => serve(args),
    }
}

fn install(args: &Install, globals: &Globals) -> Result<Exit> {
    check_name(&args.name)?;
    args.drive.check()?;
    if args.drive.point_if_any().is_none() {
        bail!(
            "a service needs a mount point: how to mount what is only served changes at each start"
        );
    }
    let services = args.whose.services()?;
    if services.list()?.iter().any(|(name, _)| *name == args.name) {
        bail!(ServiceError::Exists(args.name.clone()));
    }
    let (repo, password) = globals.open_by(|store, password, options| {
        Ok((Repository::open(store, password, options)?, password.clone()))
    })?;
    // So that a name that means nothing is noticed here, and not by a service that doesn't start.
    args.drive.snapshot(&repo)?;
    let point = args.drive.point_if_any().map(mount_point).transpose()?;
    let given = password_options(services.as_ref(), globals)?;
    // From here on a signal waits until it can be undone.
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = stopped.clone();
    let _guard = signals::on_stop(move || stop.store(true, Relaxed));
    let is_kept = given.is_none();
    let password_options = match given {
        Some(options) => options,
        None => kept(services.as_ref(), &args.name, &password)?,
    };
    drop(password);
    let installed = service(args, globals, services.as_ref(), point, password_options)
        .and_then(|service| Ok(services.install(&service)?));
    let is_stopped = stopped.load(Relaxed);
    if is_stopped && installed.is_ok() {
        services.remove(&args.name)?;
    }
    if is_kept && (is_stopped || installed.is_err()) {
        services.forget_secret(&args.name)?;
    }
    if is_stopped {
        bail!(Error::Interrupted);
    }
    installed?;
    if globals.wants_text() {
        let (name, hint) = (&args.name, services.hint(&args.name));
        output::print(&format!(
            "The drive is there, and will be whenever the system starts it.\n{hint}\n\
             `tresor service remove {name}` unmounts and forgets it.\n"
        ))?;
    }
    Ok(Exit::Done)
}

/// Options that make the service find the password as this process did; none if it can't.
fn password_options(services: &dyn Services, globals: &Globals) -> Result<Option<Vec<OsString>>> {
    let Some(from) = globals.password.source()? else { return Ok(None) };
    let file = match from {
        Source::Command(command) => {
            return Ok(Some(vec!["--password-command".into(), command.into()]));
        }
        Source::File(file) => std::path::absolute(file)?,
    };
    if !services.is_secret(&file)? {
        bail!(
            "others can read {}; take their right to read it away, or let tresor keep the password (without --password-file it asks for it)",
            file.display()
        );
    }
    Ok(Some(vec!["--password-file".into(), file.into()]))
}

/// Keeps the password, and gives options to find it.
fn kept(services: &dyn Services, name: &str, password: &Password) -> Result<Vec<OsString>> {
    let mut secret = password.clone();
    // So that a password that ends with a line break stays what it is.
    secret.push(b'\n');
    let file = services.keep_secret(name, &secret)?;
    Ok(vec!["--password-file".into(), file.into()])
}

fn service(
    args: &Install,
    globals: &Globals,
    services: &dyn Services,
    point: Option<PathBuf>,
    mut more: Vec<OsString>,
) -> Result<Service> {
    let mut what = args.drive.what.clone();
    if let (Some(last), Some(point)) = (what.last_mut(), point) {
        *last = point.into();
    }
    let (cache, state) = folders(globals, services);
    for (option, folder) in [("--cache-dir", cache), ("--state-dir", state)] {
        if let Some(folder) = folder {
            more.extend([option.into(), std::path::absolute(folder)?.into()]);
        }
    }
    more.push("--quiet".into());
    let shown = what.last().map(|point| point.display().to_string()).unwrap_or_default();
    let line = args.drive.line(&what, more, globals)?;
    let program = std::env::current_exe().context("can't find this program's own file")?;
    #[cfg(windows)]
    warn_of(&program);
    Ok(Service {
        about: format!("Backups in {} as a drive at {shown}", globals.location()?.display()),
        name: args.name.clone(),
        program,
        arguments: arguments(&args.name, line),
        needs: globals.location()?,
    })
}

/// Where the service keeps caches, and what was seen of repositories.
#[cfg(unix)]
fn folders(globals: &Globals, services: &dyn Services) -> (Option<PathBuf>, Option<PathBuf>) {
    let (cache, state) = services.folders();
    (globals.cache_folder_or(cache), globals.state_folder_or(state))
}

/// Windows' own account has folders that nobody else writes to.
#[cfg(windows)]
fn folders(globals: &Globals, _: &dyn Services) -> (Option<PathBuf>, Option<PathBuf>) {
    (globals.cache_dir.clone(), globals.state_dir.clone())
}

#[cfg(not(windows))]
fn arguments(_: &str, line: Vec<OsString>) -> Vec<OsString> {
    line
}

#[cfg(windows)]
fn arguments(name: &str, line: Vec<OsString>) -> Vec<OsString> {
    let head = ["service", "run", name, "--"].map(OsString::from);
    head.into_iter().chain(line).collect()
}

/// Windows has no short answer to who can change a file.
#[cfg(windows)]
fn warn_of(program: &std::path::Path) {
    let lower = |path: &std::path::Path| PathBuf::from(path.to_string_lossy().to_lowercase());
    let is_below = |name| {
        let folder = std::env::var_os(name).map(PathBuf::from);
        folder.is_some_and(|folder| lower(program).starts_with(lower(&folder)))
    };
    if !is_below("ProgramFiles") && !is_below("SystemRoot") {
        output::complain(&format!(
            "the system runs {} from now on: if others can change that file, they get its rights. Only administrators write to C:\\Program Files, which is a place for it",
            program.display()
        ));
    }
}

/// Who installs a drive wants to see it; the account that serves it is nobody.
#[cfg(windows)]
fn installer() -> String {
    let domain = std::env::var("USERDOMAIN").unwrap_or_default();
    let user = tresor_platform::user_name();
    if domain.is_empty() { user } else { format!("{domain}\\{user}") }
}

fn remove(args: &Remove) -> Result<Exit> {
    check_name(&args.name)?;
    let services = args.whose.services()?;
    match services.remove(&args.name) {
        // What an `install` has left that was killed.
        Err(ServiceError::Unknown(_)) if services.forget_secret(&args.name)? => {}
        removed => {
            removed?;
            services.forget_secret(&args.name)?;
        }
    }
    Ok(Exit::Done)
}

fn list(args: &List, globals: &Globals) -> Result<Exit> {
    let all = args.whose.services()?.list()?;
    let mut out = output::out();
    for (name, running) in all {
        if globals.json {
            output::json_line(&mut out, &Listed { message_type: "service", name, running })?;
        } else {
            let state = if running { "running" } else { "stopped" };
            std::io::Write::write_all(&mut out, format!("{name}  {state}\n").as_bytes())?;
        }
    }
    std::io::Write::flush(&mut out)?;
    Ok(Exit::Done)
}

#[cfg(windows)]
fn serve(args: Run) -> Result<Exit> {
    use clap::Parser;

    use crate::{cli, exit};

    let line = std::iter::once("tresor".into()).chain(args.line);
    let cli = cli::Cli::try_parse_from(line)?;
    let body = || cli.run().unwrap_or_else(|error| exit::report(&error)).code();
    tresor_platform::service::serve(&args.name, body, signals::arrived).context(
        "this is for Windows' service manager; `tresor service install` has it start drives",
    )?;
    Ok(Exit::Done)
}
