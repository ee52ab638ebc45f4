//! Installing services, and removing them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::null;
use std::time::{Duration, Instant};

use windows_service::Error;
use windows_service::service::{
    Service as Handle, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl,
    ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo,
    ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_MORE_DATA, ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_EXISTS,
    ERROR_SERVICE_NOT_ACTIVE,
};
use windows_sys::Win32::System::Services::{
    CloseServiceHandle, ENUM_SERVICE_STATUS_PROCESSW, EnumServicesStatusExW, OpenSCManagerW,
    SC_ENUM_PROCESS_INFO, SC_MANAGER_ENUMERATE_SERVICE, SERVICE_RUNNING, SERVICE_STATE_ALL,
    SERVICE_WIN32,
};

use super::super::{PREFIX, Result, Service, ServiceError, Services};
use super::{events, secret};

/// How long a service may take to start or to stop, beyond what it says itself.
const PATIENCE: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(100);
/// After this long without a failure the next one is the first.
const FORGIVEN: Duration = Duration::from_secs(24 * 3600);
const AGAIN: Duration = Duration::from_secs(30);

pub struct Manager;

/// What Windows said.
pub(super) fn inner(error: Error) -> io::Error {
    match error {
        Error::Winapi(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidInput, other.to_string()),
    }
}

fn explained(name: &str) -> impl Fn(Error) -> ServiceError {
    move |error| {
        let error = inner(error);
        match error.raw_os_error().map(|code| code as u32) {
            Some(ERROR_ACCESS_DENIED) => ServiceError::NotAdministrator,
            Some(ERROR_SERVICE_EXISTS) => ServiceError::Exists(name.into()),
            Some(ERROR_SERVICE_DOES_NOT_EXIST) => ServiceError::Unknown(name.into()),
            _ => ServiceError::Io(format!("the service {name}"), error),
        }
    }
}

fn connect(access: ServiceManagerAccess) -> windows_service::Result<ServiceManager> {
    ServiceManager::local_computer(None::<&OsStr>, access)
}

impl Services for Manager {
    fn install(&self, service: &Service) -> Result<()> {
        let explain = explained(&service.name);
        let manager = connect(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE);
        let handle = manager
            .and_then(|m| m.create_service(&info(service), ServiceAccess::ALL_ACCESS))
            .map_err(&explain)?;
        let registered = events::register().map_err(|e| ServiceError::Io("Event Log".into(), e));
        let described = handle
            .set_description(&service.about)
            .and_then(|()| handle.update_failure_actions(again()))
            .map_err(&explain);
        // Also if it ends with an error, and not only if it dies. Wine can't.
        let _ = handle.set_failure_actions_on_non_crash_failures(true);
        let started = registered.and(described).and_then(|()| start(&handle, &service.name));
        started.inspect_err(|_| {
            let _ = handle.delete();
            drop(handle);
            self.tidy();
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        let explain = explained(name);
        let access = ServiceAccess::STOP | ServiceAccess::QUERY_STATUS | ServiceAccess::DELETE;
        let handle = connect(ServiceManagerAccess::CONNECT)
            .and_then(|manager| manager.open_service(format!("{PREFIX}{name}"), access))
            .map_err(&explain)?;
        match handle.stop().map_err(inner) {
            Err(e) if e.raw_os_error() != Some(ERROR_SERVICE_NOT_ACTIVE as i32) => {
                return Err(explain(Error::Winapi(e)));
            }
            _ => {}
        }
        wait(&handle, ServiceState::Stopped).map_err(&explain)?;
        handle.delete().map_err(&explain)?;
        drop(handle);
        self.tidy();
        Ok(())
    }

    fn list(&self) -> Result<Vec<(String, bool)>> {
        all().map_err(|e| ServiceError::Io("Windows' services".into(), e))
    }

    fn keep_secret(&self, name: &str, secret: &[u8]) -> Result<PathBuf> {
        secret::keep(name, secret)
    }

    fn forget_secret(&self, name: &str) -> Result<bool> {
        secret::forget(name)
    }

    fn is_secret(&self, file: &Path) -> Result<bool> {
        secret::is_secret(file)
    }

    fn hint(&self, name: &str) -> String {
        format!(
            "`net stop {PREFIX}{name}` and `net start` stop and start it; what it says is in the Event Viewer, in Windows Logs, Application."
        )
    }
}

impl Manager {
    /// The last one takes along what is there for all.
    fn tidy(&self) {
        if self.list().is_ok_and(|rest| rest.is_empty()) {
            events::unregister();
        }
    }
}

fn info(service: &Service) -> ServiceInfo {
    let name = OsString::from(format!("{PREFIX}{}", service.name));
    ServiceInfo {
        display_name: OsString::from(format!("tresor: {}", service.name)),
        name,
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: service.program.clone(),
        launch_arguments: service.arguments.clone(),
        dependencies: Vec::new(),
        account_name: None,
        account_password: None,
    }
}

fn again() -> ServiceFailureActions {
    let restart = ServiceAction { action_type: ServiceActionType::Restart, delay: AGAIN };
    ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FORGIVEN),
        reboot_msg: None,
        command: None,
        actions: Some(vec![restart]),
    }
}

fn start(handle: &Handle, name: &str) -> Result<()> {
    let failed = |said: String| {
        let look = "the Event Viewer may tell more (Windows Logs, Application, source tresor)";
        ServiceError::Start { name: name.into(), said, look: look.into() }
    };
    let started = handle.start(&[] as &[&OsStr]);
    let status = started.and_then(|()| wait(handle, ServiceState::Running));
    let status = status.map_err(|e| failed(inner(e).to_string()))?;
    match (status.current_state, status.exit_code) {
        (ServiceState::Running, _) => Ok(()),
        (_, ServiceExitCode::ServiceSpecific(code)) => Err(failed(format!("it ended with {code}"))),
        (_, ServiceExitCode::Win32(code)) => {
            Err(failed(io::Error::from_raw_os_error(code as i32).to_string()))
        }
    }
}

/// Until it is in that state, or has ended.
fn wait(handle: &Handle, state: ServiceState) -> windows_service::Result<ServiceStatus> {
    let start = Instant::now();
    loop {
        let status = handle.query_status()?;
        if status.current_state == state || status.current_state == ServiceState::Stopped {
            return Ok(status);
        }
        if start.elapsed() > PATIENCE {
            let late = format!("it doesn't answer ({:?})", status.current_state);
            return Err(Error::Winapi(io::Error::new(io::ErrorKind::TimedOut, late)));
        }
        std::thread::sleep(POLL);
    }
}

/// Every service of tresor, and whether it is running.
fn all() -> io::Result<Vec<(String, bool)>> {
    // SAFETY: takes no pointers that must live.
    let manager = unsafe { OpenSCManagerW(null(), null(), SC_MANAGER_ENUMERATE_SERVICE) };
    if manager.is_null() {
        return Err(io::Error::last_os_error());
    }
    // Aligned, and made longer until all of it fits.
    let mut room = vec![0u64; 8 << 10];
    let found = loop {
        let (mut needed, mut count, mut resume) = (0, 0, 0);
        // SAFETY: the buffer is as long as we say, and the places for the answers live.
        let done = unsafe {
            EnumServicesStatusExW(
                manager,
                SC_ENUM_PROCESS_INFO,
                SERVICE_WIN32,
                SERVICE_STATE_ALL,
                room.as_mut_ptr().cast(),
                (room.len() * 8) as u32,
                &mut needed,
                &mut count,
                &mut resume,
                null(),
            )
        };
        if done != 0 {
            // SAFETY: Windows has filled in so many, whose texts are in the buffer.
            break Ok(unsafe { ours(room.as_ptr().cast(), count as usize) });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(ERROR_MORE_DATA as i32) {
            break Err(error);
        }
        room.resize(room.len() + (needed as usize).div_ceil(8) + 1, 0);
    };
    // SAFETY: it is open.
    unsafe { CloseServiceHandle(manager) };
    found
}

/// # Safety
/// There must be as many as is said, with names that end with a zero.
unsafe fn ours(first: *const ENUM_SERVICE_STATUS_PROCESSW, count: usize) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for at in 0..count {
        // SAFETY: as the caller says.
        let (name, state) = unsafe {
            let service = &*first.add(at);
            let mut length = 0;
            while *service.lpServiceName.add(length) != 0 {
                length += 1;
            }
            let name = std::slice::from_raw_parts(service.lpServiceName, length);
            (String::from_utf16_lossy(name), service.ServiceStatusProcess.dwCurrentState)
        };
        if let Some(name) = name.strip_prefix(PREFIX) {
            found.push((name.to_owned(), state == SERVICE_RUNNING));
        }
    }
    found
}
