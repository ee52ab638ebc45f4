//! `mount --via nfs`: the drive comes from an NFS server in this program.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use tresor_engine::repo::Repository;
use tresor_mountfs::OwnDrive;
use tresor_mountfs::nfs::{self, Mounted, ServeOptions, System};
use tresor_mountfs::system::mount_point;

use crate::commands::mount::{Args, leave};
use crate::exit::Exit;
use crate::globals::Globals;
use crate::{background, output, signals};

/// The only one that Windows' client knows of: that of the port mapper.
const PORT_OF_WINDOWS: u16 = 111;
/// Stands for where it is mounted.
const SOMEWHERE: &str = if cfg!(windows) { "R:" } else { "MOUNTPOINT" };

/// What `--json` says; docs/json.md describes it.
#[derive(Serialize)]
struct Serving {
    message_type: &'static str,
    address: IpAddr,
    port: u16,
    /// What clients must name to mount it; null if nobody can any more.
    export: Option<String>,
    mount_command: Option<Vec<String>>,
    mount_point: Option<String>,
    process: u32,
}

pub fn run(args: &Args, globals: &Globals, repo: Arc<Repository>) -> Result<Exit> {
    let point = args.drive.point_if_any().map(mount_point).transpose()?;
    // Before there is a drive: a signal must never leave one behind that nobody serves.
    let own = OwnDrive::default();
    let to_leave = own.clone();
    let _guard = point.is_some().then(|| signals::on_stop(move || leave(to_leave.clone())));
    let options = ServeOptions {
        address: args.drive.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: args.drive.port.unwrap_or(0),
        allow_other: args.drive.allow_other,
        idle_exit: args.drive.idle_exit(),
        repository: Some(globals.location()?),
        own,
        on_error: Arc::new(output::complain),
    };
    warn(&options);
    let mounted = nfs::mount(args.drive.drive(repo)?, point.as_deref(), &options)?;
    let server = mounted.server().clone();
    let _guard = point.is_none().then(|| signals::on_stop(move || server.stop()));
    let said = if globals.json { json(&mounted) } else { text(args, &mounted) };
    let told = said.and_then(|said| background::say(args.serve, globals, &said));
    if told.is_err()
        && let Err(e) = mounted.leave()
    {
        output::complain(&format!("{e}; it is served on until it is unmounted"));
    }
    mounted.wait();
    told.map(|()| Exit::Done)
}

fn warn(options: &ServeOptions) {
    if !options.address.is_loopback() {
        output::complain(&format!(
            "serving at {}, an address of a network: NFS neither encrypts nor asks for a password. Who sees \
             what is sent can read everything on the drive; use a tunnel (SSH, WireGuard) and 127.0.0.1",
            options.address
        ));
    }
}

fn command(mounted: &Mounted) -> Vec<String> {
    let server = mounted.server();
    System::this().command(server.local_address(), server.export(), SOMEWHERE)
}

fn json(mounted: &Mounted) -> Result<String> {
    let (server, point) = (mounted.server(), mounted.point());
    let serving = Serving {
        message_type: "serving",
        address: server.address().ip(),
        port: server.address().port(),
        export: point.is_none().then(|| server.export().to_owned()),
        mount_command: point.is_none().then(|| command(mounted)),
        mount_point: point.map(|point| point.display().to_string()),
        process: std::process::id(),
    };
    Ok(serde_json::to_string(&serving)? + "\n")
}

fn text(args: &Args, mounted: &Mounted) -> Result<String> {
    if let Some(point) = mounted.point() {
        return args.where_it_is(point);
    }
    let address = mounted.server().address();
    let end = match args.serve {
        true => format!("`kill {}`", std::process::id()),
        false => "Ctrl-C".into(),
    };
    let mut text = format!(
        "Serving the drive at {address} until {end}. To mount it, as root or an administrator:\n  \
         {}\nKeep the path /tresor-… to yourself: it is the key to what is served.\n",
        command(mounted).join(" ")
    );
    if address.ip().is_unspecified() {
        text += "On another machine, name this one's address instead.\n";
    }
    if cfg!(windows) && address.port() != PORT_OF_WINDOWS {
        text += "Windows' client finds it at port 111 only: use --port 111.\n";
    }
    Ok(text)
}
