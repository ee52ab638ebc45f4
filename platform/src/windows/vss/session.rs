//! The interfaces of the Volume Shadow Copy Service that a backup uses, as vsbackup.h and
//! vss.h of the Windows SDK declare them. No crate has them, since Microsoft describes them
//! to C++ only. What isn't used is a gap in the tables.

use std::ptr::{null, null_mut};
use std::time::Duration;

use windows_sys::core::{BOOL, BSTR, GUID, HRESULT, PWSTR};

use super::com::{Apartment, Function, Held, Library, NO_ID, Object, This, Unknown, check, text};
use super::error::{self, Failure};
use super::metadata::{self, MetadataTable};

type Plain = unsafe extern "system" fn(This) -> HRESULT;
type Starts = unsafe extern "system" fn(This, *mut *mut Object<AsyncTable>) -> HRESULT;
type Counts = unsafe extern "system" fn(This, *mut u32) -> HRESULT;

/// `IVssBackupComponents`
#[repr(C)]
struct BackupTable {
    _unknown: Unknown,
    _get_writer_components: [usize; 2],
    initialize_for_backup: unsafe extern "system" fn(This, BSTR) -> HRESULT,
    set_backup_state: unsafe extern "system" fn(This, u8, u8, i32, u8) -> HRESULT,
    _initialize_for_restore: [usize; 2],
    gather_writer_metadata: Starts,
    get_writer_metadata_count: Counts,
    get_writer_metadata:
        unsafe extern "system" fn(This, u32, *mut GUID, *mut *mut Object<MetadataTable>) -> HRESULT,
    free_writer_metadata: Plain,
    _add_component: usize,
    prepare_for_backup: Starts,
    abort_backup: Plain,
    gather_writer_status: Starts,
    get_writer_status_count: Counts,
    free_writer_status: Plain,
    get_writer_status: unsafe extern "system" fn(
        This,
        u32,
        *mut GUID,
        *mut GUID,
        *mut BSTR,
        *mut i32,
        *mut HRESULT,
    ) -> HRESULT,
    _set_backup_succeeded_to_save_as_xml: [usize; 7],
    backup_complete: Starts,
    _add_alternative_location_mapping_to_post_restore: [usize; 7],
    set_context: unsafe extern "system" fn(This, i32) -> HRESULT,
    start_snapshot_set: unsafe extern "system" fn(This, *mut GUID) -> HRESULT,
    add_to_snapshot_set: unsafe extern "system" fn(This, PWSTR, GUID, *mut GUID) -> HRESULT,
    do_snapshot_set: Starts,
    delete_snapshots:
        unsafe extern "system" fn(This, GUID, i32, BOOL, *mut i32, *mut GUID) -> HRESULT,
    _import_and_break: [usize; 2],
    get_snapshot_properties: unsafe extern "system" fn(This, GUID, *mut Properties) -> HRESULT,
    _query: usize,
    is_volume_supported: unsafe extern "system" fn(This, GUID, PWSTR, *mut BOOL) -> HRESULT,
}

/// `IVssAsync`
#[repr(C)]
struct AsyncTable {
    _unknown: Unknown,
    cancel: Plain,
    wait: unsafe extern "system" fn(This, u32) -> HRESULT,
    query_status: unsafe extern "system" fn(This, *mut HRESULT, *mut i32) -> HRESULT,
}

/// `VSS_SNAPSHOT_PROP`
#[repr(C)]
struct Properties {
    _id: GUID,
    _set: GUID,
    _count: i32,
    device: PWSTR,
    _names: [PWSTR; 5],
    _provider: GUID,
    _attributes: i32,
    _created: i64,
    _status: i32,
}

type Create = unsafe extern "system" fn(*mut *mut Object<BackupTable>) -> HRESULT;
type FreeProperties = unsafe extern "system" fn(*mut Properties);

const ASYNC_PENDING: HRESULT = 0x0004_2309;
const ASYNC_FINISHED: HRESULT = 0x0004_230a;
const ASYNC_CANCELLED: HRESULT = 0x0004_230b;
/// Gone with whoever made it, and made together with those that write the files.
const CONTEXT_BACKUP: i32 = 0;
/// Writers take no notice: their logs and marks stay as the owner's own backups need them.
const BACKUP_COPY: i32 = 5;
const OBJECT_SNAPSHOT_SET: i32 = 2;
/// How often a call that takes its time is asked whether it shall stop.
const SLICE: Duration = Duration::from_millis(200);

/// `C:\`, ending with a zero.
pub(super) type Volume = [u16; 4];

/// A writer: a program that holds its files still while the snapshot is made.
pub(super) struct Writer {
    pub name: String,
    pub state: i32,
    pub failure: HRESULT,
}

/// `IVssBackupComponents`, one for each backup.
pub(super) struct Session {
    object: Held<BackupTable>,
    free_properties: FreeProperties,
    _apartment: Apartment,
}

impl Session {
    pub fn create() -> Result<Self, Failure> {
        let apartment = Apartment::enter()?;
        let library = Library::load()?;
        let create = library.find([
            c"CreateVssBackupComponentsInternal",
            c"?CreateVssBackupComponents@@YAJPEAPEAVIVssBackupComponents@@@Z",
        ])?;
        let free =
            library.find([c"VssFreeSnapshotPropertiesInternal", c"VssFreeSnapshotProperties"])?;
        // SAFETY: these are the types of the functions that have these names.
        let (create, free_properties) = unsafe {
            (
                std::mem::transmute::<Function, Create>(create),
                std::mem::transmute::<Function, FreeProperties>(free),
            )
        };
        const CALL: &str = "CreateVssBackupComponents";
        let mut object = null_mut();
        // SAFETY: writes a pointer.
        check(CALL, unsafe { create(&mut object) })?;
        let object = Held::new(CALL, object)?;
        Ok(Self { object, free_properties, _apartment: apartment })
    }

    fn table(&self) -> &BackupTable {
        self.object.table()
    }

    /// For a snapshot that is gone when this object is.
    pub fn initialize(&self, system_state: bool) -> Result<(), Failure> {
        let (this, table) = (self.object.this(), self.table());
        // SAFETY: no document is given, which is allowed; the rest are numbers.
        unsafe {
            check("InitializeForBackup", (table.initialize_for_backup)(this, null()))?;
            check("SetContext", (table.set_context)(this, CONTEXT_BACKUP))?;
            // Whole volumes, not components chosen one by one.
            check(
                "SetBackupState",
                (table.set_backup_state)(this, 0, u8::from(system_state), BACKUP_COPY, 0),
            )
        }
    }

    pub fn gather_metadata(&self, stop: &dyn Fn() -> bool) -> Result<(), Failure> {
        self.run("GatherWriterMetadata", self.table().gather_writer_metadata, stop)
    }

    /// The folders of what makes up the state of the system, as writers name them.
    pub fn state_folders(&self) -> Result<Vec<String>, Failure> {
        let (this, table) = (self.object.this(), self.table());
        let mut count = 0;
        // SAFETY: writes a number.
        check("GetWriterMetadataCount", unsafe {
            (table.get_writer_metadata_count)(this, &mut count)
        })?;
        let mut folders = Vec::new();
        for number in 0..count {
            const CALL: &str = "GetWriterMetadata";
            let (mut instance, mut writer) = (NO_ID, null_mut());
            // SAFETY: writes an id and a pointer to an object, which is ours.
            let result =
                unsafe { (table.get_writer_metadata)(this, number, &mut instance, &mut writer) };
            check(CALL, result)?;
            metadata::state_folders(&Held::new(CALL, writer)?, &mut folders)?;
        }
        // SAFETY: takes nothing.
        check("FreeWriterMetadata", unsafe { (table.free_writer_metadata)(this) })?;
        Ok(folders)
    }

    pub fn is_supported(&self, volume: &Volume) -> Result<bool, Failure> {
        let mut supported = 0;
        let (this, name) = (self.object.this(), volume.as_ptr().cast_mut());
        // SAFETY: the name ends with a zero and isn't written to.
        let result =
            unsafe { (self.table().is_volume_supported)(this, NO_ID, name, &mut supported) };
        check("IsVolumeSupported", result)?;
        Ok(supported != 0)
    }

    pub fn start_set(&self) -> Result<GUID, Failure> {
        let mut id = NO_ID;
        // SAFETY: writes an id.
        let result = unsafe { (self.table().start_snapshot_set)(self.object.this(), &mut id) };
        check("StartSnapshotSet", result).map(|()| id)
    }

    pub fn add(&self, volume: &Volume) -> Result<GUID, Failure> {
        let mut id = NO_ID;
        let (this, name) = (self.object.this(), volume.as_ptr().cast_mut());
        // SAFETY: as in `is_supported`.
        let result = unsafe { (self.table().add_to_snapshot_set)(this, name, NO_ID, &mut id) };
        check("AddToSnapshotSet", result).map(|()| id)
    }

    pub fn prepare(&self, stop: &dyn Fn() -> bool) -> Result<(), Failure> {
        self.run("PrepareForBackup", self.table().prepare_for_backup, stop)
    }

    pub fn make(&self, stop: &dyn Fn() -> bool) -> Result<(), Failure> {
        self.run("DoSnapshotSet", self.table().do_snapshot_set, stop)
    }

    /// The path of the device that a volume's snapshot is.
    pub fn device(&self, snapshot: GUID) -> Result<Vec<u16>, Failure> {
        // SAFETY: numbers and pointers, for which zero is a value.
        let mut properties: Properties = unsafe { std::mem::zeroed() };
        let (this, table) = (self.object.this(), self.table());
        // SAFETY: fills in what is freed below.
        let result = unsafe { (table.get_snapshot_properties)(this, snapshot, &mut properties) };
        check("GetSnapshotProperties", result)?;
        // SAFETY: a text that ends with a zero, or null; freed by whoever has made it, once.
        let device = unsafe {
            let device = zero_ended(properties.device);
            (self.free_properties)(&mut properties);
            device
        };
        if device.is_empty() {
            return Err(Failure { call: "GetSnapshotProperties", result: error::UNEXPECTED });
        }
        Ok(device)
    }

    pub fn complete(&self) -> Result<(), Failure> {
        self.run("BackupComplete", self.table().backup_complete, &|| false)
    }

    pub fn abort(&self) -> Result<(), Failure> {
        // SAFETY: takes nothing.
        check("AbortBackup", unsafe { (self.table().abort_backup)(self.object.this()) })
    }

    pub fn delete(&self, set: GUID) -> Result<(), Failure> {
        let (mut count, mut left) = (0, NO_ID);
        // SAFETY: writes a number and an id.
        let result = unsafe {
            (self.table().delete_snapshots)(
                self.object.this(),
                set,
                OBJECT_SNAPSHOT_SET,
                1,
                &mut count,
                &mut left,
            )
        };
        check("DeleteSnapshots", result)
    }

    pub fn writers(&self, stop: &dyn Fn() -> bool) -> Result<Vec<Writer>, Failure> {
        let (this, table) = (self.object.this(), self.table());
        self.run("GatherWriterStatus", table.gather_writer_status, stop)?;
        let mut count = 0;
        // SAFETY: writes a number.
        let counted = unsafe { (table.get_writer_status_count)(this, &mut count) };
        let all = check("GetWriterStatusCount", counted)
            .and_then(|()| (0..count).map(|number| self.writer(number)).collect());
        // SAFETY: takes nothing; `all` holds copies.
        let freed = unsafe { (table.free_writer_status)(this) };
        let all = all?;
        check("FreeWriterStatus", freed).map(|()| all)
    }

    fn writer(&self, number: u32) -> Result<Writer, Failure> {
        let (mut instance, mut class) = (NO_ID, NO_ID);
        let (mut name, mut state, mut failure): (BSTR, _, _) = (null(), 0, 0);
        // SAFETY: writes into what lives here; the name is a string of COM, which is ours.
        unsafe {
            let result = (self.table().get_writer_status)(
                self.object.this(),
                number,
                &mut instance,
                &mut class,
                &mut name,
                &mut state,
                &mut failure,
            );
            check("GetWriterStatus", result)?;
            let name = Some(text(name)).filter(|name| !name.is_empty());
            let name = name.unwrap_or_else(|| "without a name".into());
            Ok(Writer { name, state, failure })
        }
    }

    /// Calls what takes its time, and waits for the end.
    fn run(
        &self,
        call: &'static str,
        starts: Starts,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        let mut started = null_mut();
        // SAFETY: writes a pointer to an object, which is ours.
        check(call, unsafe { starts(self.object.this(), &mut started) })?;
        let started = Held::new(call, started)?;
        let (this, table) = (started.this(), started.table());
        loop {
            let mut result = 0;
            // SAFETY: the object is held; the last argument is to be null.
            unsafe {
                check(call, (table.wait)(this, SLICE.as_millis() as u32))?;
                check(call, (table.query_status)(this, &mut result, null_mut()))?;
            }
            match result {
                ASYNC_FINISHED => return Ok(()),
                ASYNC_CANCELLED => return Err(Failure { call, result: error::CANCELLED }),
                ASYNC_PENDING if stop() => {
                    // SAFETY: takes nothing. The loop sees what becomes of it.
                    check(call, unsafe { (table.cancel)(this) })?;
                }
                ASYNC_PENDING => {}
                result => return check(call, result),
            }
        }
    }
}

/// # Safety
/// The text ends with a zero, or the pointer is null.
unsafe fn zero_ended(text: PWSTR) -> Vec<u16> {
    if text.is_null() {
        return Vec::new();
    }
    // SAFETY: by our caller.
    unsafe {
        let mut len = 0;
        while *text.add(len) != 0 {
            len += 1;
        }
        std::slice::from_raw_parts(text, len).to_vec()
    }
}
