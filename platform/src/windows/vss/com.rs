//! COM as far as the Volume Shadow Copy Service needs it.

use std::ffi::{CStr, c_void};
use std::ptr::{NonNull, null, null_mut};

use windows_sys::Win32::Foundation::{
    HMODULE, RPC_E_CHANGED_MODE, RPC_E_TOO_LATE, SysFreeString, SysStringLen,
};
use windows_sys::Win32::System::Com::{
    COINIT_MULTITHREADED, CoInitializeEx, CoInitializeSecurity, CoUninitialize, EOAC_NONE,
    RPC_C_AUTHN_LEVEL_PKT_PRIVACY, RPC_C_IMP_LEVEL_IDENTIFY,
};
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};
use windows_sys::core::{BSTR, GUID, HRESULT};

use super::error::{self, Failure};

pub(super) type This = *mut c_void;

#[repr(C)]
pub(super) struct Unknown {
    _query_interface: usize,
    _add_ref: usize,
    release: unsafe extern "system" fn(This) -> u32,
}

#[repr(C)]
pub(super) struct Object<T> {
    table: *const T,
}

pub(super) const NO_ID: GUID = GUID::from_u128(0);

pub(super) fn check(call: &'static str, result: HRESULT) -> Result<(), Failure> {
    if result < 0 { Err(Failure { call, result }) } else { Ok(()) }
}

/// COM on this thread.
pub(super) struct Apartment {
    entered: bool,
}

impl Apartment {
    pub fn enter() -> Result<Self, Failure> {
        // SAFETY: left again when this is dropped, on the same thread (nothing here is Send).
        let result = unsafe { CoInitializeEx(null(), COINIT_MULTITHREADED as u32) };
        if result != RPC_E_CHANGED_MODE {
            check("CoInitializeEx", result)?;
        }
        // Writers call back. Without this the system refuses those that run as other users,
        // and writes event 8194 for each.
        // SAFETY: every pointer may be null.
        let security = unsafe {
            CoInitializeSecurity(
                null_mut(),
                -1,
                null(),
                null(),
                RPC_C_AUTHN_LEVEL_PKT_PRIVACY,
                RPC_C_IMP_LEVEL_IDENTIFY,
                null(),
                EOAC_NONE as u32,
                null(),
            )
        };
        let apartment = Self { entered: result >= 0 };
        // Somebody else in this process has set it already.
        if security != RPC_E_TOO_LATE {
            check("CoInitializeSecurity", security)?;
        }
        Ok(apartment)
    }
}

impl Drop for Apartment {
    fn drop(&mut self) {
        if self.entered {
            // SAFETY: entered by this thread.
            unsafe { CoUninitialize() };
        }
    }
}

pub(super) type Function = unsafe extern "system" fn() -> isize;

/// vssapi.dll, which is loaded when it is needed: not every system that runs this has it.
/// It stays, since threads of its own may be at work in it.
pub(super) struct Library(HMODULE);

impl Library {
    pub fn load() -> Result<Self, Failure> {
        let name: Vec<u16> = "vssapi.dll".encode_utf16().chain([0]).collect();
        // Only where the system keeps its own: this may run with all rights.
        // SAFETY: the name ends with a zero.
        let module =
            unsafe { LoadLibraryExW(name.as_ptr(), null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32) };
        if module.is_null() { Err(error::NOT_THERE) } else { Ok(Self(module)) }
    }

    /// The SDK's headers name the first; systems that are older than those have the second.
    pub fn find(&self, names: [&CStr; 2]) -> Result<Function, Failure> {
        // SAFETY: the module is loaded and the names end with a zero.
        let find = |name: &CStr| unsafe { GetProcAddress(self.0, name.as_ptr().cast()) };
        names.into_iter().find_map(find).ok_or(error::NOT_THERE)
    }
}

/// Something of COM that is released when it is dropped.
pub(super) struct Held<T>(NonNull<Object<T>>);

impl<T> Held<T> {
    pub fn new(call: &'static str, object: *mut Object<T>) -> Result<Self, Failure> {
        NonNull::new(object).map(Self).ok_or(Failure { call, result: error::UNEXPECTED })
    }

    pub fn this(&self) -> This {
        self.0.as_ptr().cast()
    }

    pub fn table(&self) -> &T {
        // SAFETY: an object of COM begins with the pointer to its table, and both are there
        // until it is released.
        unsafe { &*self.0.as_ref().table }
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        // SAFETY: every table begins with that of IUnknown, and we hold one reference.
        unsafe {
            let unknown: *const Unknown = self.0.as_ref().table.cast();
            ((*unknown).release)(self.this());
        }
    }
}

/// Takes over a string of COM.
///
/// # Safety
/// It is one, which nobody else frees, or null.
pub(super) unsafe fn text(string: BSTR) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: by our caller; the length is that of the string.
    unsafe {
        let units = std::slice::from_raw_parts(string, SysStringLen(string) as usize);
        let text = String::from_utf16_lossy(units);
        SysFreeString(string);
        text
    }
}
