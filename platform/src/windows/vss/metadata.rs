//! What writers say that they have: which files make up the state of the system.

use std::ptr::null_mut;

use windows_sys::core::{BSTR, GUID, HRESULT};

use super::com::{Held, NO_ID, Object, This, Unknown, check, text};
use super::error::Failure;

type GetsText = unsafe extern "system" fn(This, *mut BSTR) -> HRESULT;
type GetsFile = unsafe extern "system" fn(This, u32, *mut *mut Object<FileTable>) -> HRESULT;

/// `IVssExamineWriterMetadata`
#[repr(C)]
pub(super) struct MetadataTable {
    _unknown: Unknown,
    get_identity: unsafe extern "system" fn(
        This,
        *mut GUID,
        *mut GUID,
        *mut BSTR,
        *mut i32,
        *mut i32,
    ) -> HRESULT,
    get_file_counts: unsafe extern "system" fn(This, *mut u32, *mut u32, *mut u32) -> HRESULT,
    _get_include_and_exclude_file: [usize; 2],
    get_component:
        unsafe extern "system" fn(This, u32, *mut *mut Object<ComponentTable>) -> HRESULT,
}

/// `IVssWMComponent`
#[repr(C)]
struct ComponentTable {
    _unknown: Unknown,
    get_component_info: unsafe extern "system" fn(This, *mut *const ComponentInfo) -> HRESULT,
    free_component_info: unsafe extern "system" fn(This, *const ComponentInfo) -> HRESULT,
    get_file: GetsFile,
    get_database_file: GetsFile,
    get_database_log_file: GetsFile,
}

/// `IVssWMFiledesc`
#[repr(C)]
struct FileTable {
    _unknown: Unknown,
    get_path: GetsText,
    _get_filespec_and_recursive: [usize; 2],
    get_alternate_location: GetsText,
}

/// `VSS_COMPONENTINFO`
#[repr(C)]
struct ComponentInfo {
    _kind: i32,
    _names: [BSTR; 3],
    _icon: *const u8,
    _icon_len: u32,
    _choices: [u8; 4],
    flags: u32,
    files: u32,
    databases: u32,
    logs: u32,
    _dependencies: u32,
}

/// `VSS_UT_BOOTABLESYSTEMSTATE` and `VSS_UT_SYSTEMSERVICE`
const SYSTEM_STATE: [i32; 2] = [1, 2];
/// `VSS_CF_NOT_SYSTEM_STATE`
const NOT_SYSTEM_STATE: u32 = 4;

/// Adds the folders of what a writer counts among the state of the system.
pub(super) fn state_folders(
    writer: &Held<MetadataTable>,
    into: &mut Vec<String>,
) -> Result<(), Failure> {
    let (this, table) = (writer.this(), writer.table());
    let (mut instance, mut class) = (NO_ID, NO_ID);
    let (mut name, mut usage, mut source): (BSTR, _, _) = (std::ptr::null(), 0, 0);
    let (mut included, mut excluded, mut components) = (0, 0, 0);
    // SAFETY: writes into what lives here; the name is ours.
    unsafe {
        let identity = (table.get_identity)(
            this,
            &mut instance,
            &mut class,
            &mut name,
            &mut usage,
            &mut source,
        );
        check("GetIdentity", identity)?;
        text(name);
        if !SYSTEM_STATE.contains(&usage) {
            return Ok(());
        }
        let counts = (table.get_file_counts)(this, &mut included, &mut excluded, &mut components);
        check("GetFileCounts", counts)?;
    }
    for number in 0..components {
        const CALL: &str = "GetComponent";
        let mut component = null_mut();
        // SAFETY: writes a pointer to an object, which is ours.
        check(CALL, unsafe { (table.get_component)(this, number, &mut component) })?;
        component_folders(&Held::new(CALL, component)?, into)?;
    }
    Ok(())
}

fn component_folders(
    component: &Held<ComponentTable>,
    into: &mut Vec<String>,
) -> Result<(), Failure> {
    const CALL: &str = "GetComponentInfo";
    let (this, table) = (component.this(), component.table());
    let mut info = std::ptr::null();
    // SAFETY: writes a pointer to what stays until it is freed, which it is below.
    let (flags, counts) = unsafe {
        check(CALL, (table.get_component_info)(this, &mut info))?;
        let Some(told) = info.as_ref() else {
            return Err(Failure { call: CALL, result: super::error::UNEXPECTED });
        };
        let told = (told.flags, [told.files, told.databases, told.logs]);
        check("FreeComponentInfo", (table.free_component_info)(this, info))?;
        told
    };
    if flags & NOT_SYSTEM_STATE != 0 {
        return Ok(());
    }
    let calls: [(&str, GetsFile); 3] = [
        ("GetFile", table.get_file),
        ("GetDatabaseFile", table.get_database_file),
        ("GetDatabaseLogFile", table.get_database_log_file),
    ];
    for ((call, get), count) in calls.into_iter().zip(counts) {
        for number in 0..count {
            let mut file = null_mut();
            // SAFETY: writes a pointer to an object, which is ours.
            check(call, unsafe { get(this, number, &mut file) })?;
            into.push(folder(&Held::new(call, file)?)?);
        }
    }
    Ok(())
}

/// Where a file is to be read: another place than its own if it says so.
fn folder(file: &Held<FileTable>) -> Result<String, Failure> {
    let (this, table) = (file.this(), file.table());
    let (mut path, mut other): (BSTR, BSTR) = (std::ptr::null(), std::ptr::null());
    // SAFETY: writes strings of COM, which are ours.
    unsafe {
        check("GetAlternateLocation", (table.get_alternate_location)(this, &mut other))?;
        let other = text(other);
        check("GetPath", (table.get_path)(this, &mut path))?;
        let path = text(path);
        Ok(if other.is_empty() { path } else { other })
    }
}
