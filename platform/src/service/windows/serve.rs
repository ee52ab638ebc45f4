//! The process that the service manager starts.

use std::io;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use windows_service::define_windows_service;
use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    ServiceControlHandlerResult, ServiceStatusHandle, register,
};
use windows_service::service_dispatcher;

use super::super::PREFIX;
use super::manager::inner;

/// How long it may take to open the repository, or to let go of the drive, before the manager
/// takes the service for dead.
const PATIENCE: Duration = Duration::from_secs(120);

struct Run {
    name: String,
    body: Mutex<Option<Box<dyn FnOnce() -> u8 + Send>>>,
    stop: fn(),
    handle: OnceLock<ServiceStatusHandle>,
    /// Nothing is reported once it has stopped.
    has_ended: Mutex<bool>,
}

static RUN: OnceLock<Run> = OnceLock::new();

/// Whether this process was started by the service manager.
pub fn is_service() -> bool {
    RUN.get().is_some_and(|run| run.handle.get().is_some())
}

/// Runs `body` as the service of this name, which ends with the exit code that it gives;
/// `stop` is called when it is to end, and may not block. An error if it wasn't the service
/// manager that has started this process.
pub fn serve(name: &str, body: impl FnOnce() -> u8 + Send + 'static, stop: fn()) -> io::Result<()> {
    let run = Run {
        name: format!("{PREFIX}{name}"),
        body: Mutex::new(Some(Box::new(body))),
        stop,
        handle: OnceLock::new(),
        has_ended: Mutex::new(false),
    };
    let run = RUN.get_or_init(|| run);
    service_dispatcher::start(&run.name, entry).map_err(inner)
}

define_windows_service!(entry, main);

fn main(_: Vec<std::ffi::OsString>) {
    let Some(run) = RUN.get() else { return };
    // Without it nobody can be told anything.
    let Ok(handle) = register(&run.name, control) else { return };
    let _ = run.handle.set(handle);
    tell(ServiceState::StartPending, 0);
    let body = run.body.lock().unwrap_or_else(|e| e.into_inner()).take();
    ended(body.map_or(0, |body| body()));
}

/// A function, not a closure with something in it: the crate frees what that holds when the
/// service is asked to stop, and may call it again.
fn control(what: ServiceControl) -> ServiceControlHandlerResult {
    match what {
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        ServiceControl::Stop | ServiceControl::Preshutdown => {
            tell(ServiceState::StopPending, 0);
            if let Some(run) = RUN.get() {
                (run.stop)();
            }
            ServiceControlHandlerResult::NoError
        }
        _ => ServiceControlHandlerResult::NotImplemented,
    }
}

/// Tells the manager that the service does what it is there for.
pub fn ready() {
    tell(ServiceState::Running, 0);
}

/// Tells the manager that the service has ended, if this process is one; it may end the
/// process then.
pub fn ended(code: u8) {
    tell(ServiceState::Stopped, code);
}

fn tell(state: ServiceState, code: u8) {
    let Some((run, handle)) = RUN.get().and_then(|run| Some((run, run.handle.get()?))) else {
        return;
    };
    let mut has_ended = run.has_ended.lock().unwrap_or_else(|e| e.into_inner());
    if *has_ended {
        return;
    }
    *has_ended = state == ServiceState::Stopped;
    let accepted = ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN;
    let is_pending = matches!(state, ServiceState::StartPending | ServiceState::StopPending);
    let status = ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: match state {
            ServiceState::Running => accepted,
            _ => ServiceControlAccept::empty(),
        },
        exit_code: match code {
            0 => ServiceExitCode::NO_ERROR,
            code => ServiceExitCode::ServiceSpecific(code.into()),
        },
        checkpoint: u32::from(is_pending),
        wait_hint: if is_pending { PATIENCE } else { Duration::ZERO },
        process_id: None,
    };
    // A manager that isn't there any more needs to hear nothing.
    let _ = handle.set_service_status(status);
}
