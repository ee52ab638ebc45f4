/*
 * Stands in for the Volume Shadow Copy Service, of which Wine has nothing: a vssapi.dll with
 * IVssBackupComponents as the SDK's header declares it. A "shadow copy" is a copy of one folder,
 * which a test names. Calls are written down, and refused with VSS_E_BAD_STATE where
 * Microsoft's documentation wants another order. What a test says:
 *
 *   TRESOR_TEST_VSS          folder for the log and the copies
 *   TRESOR_TEST_VSS_SOURCE   the folder that is copied: all there is on the volume
 *   TRESOR_TEST_VSS_FAIL     CALL=RESULT: what this call returns; CALL.async=RESULT: how it ends
 *   TRESOR_TEST_VSS_WRITER   STATE=RESULT: how a writer is once the copy is made
 *   TRESOR_TEST_VSS_WRITES   a file that a program goes on with: after the copy it has other
 *                            bytes, and nobody else can open it
 *   TRESOR_TEST_VSS_STATE    where a database lies that belongs to the system state
 *   TRESOR_TEST_VSS_NO       drive letters that there are no copies of
 */
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>
#include <vss.h>
#include <vswriter.h>
#include <vsbackup.h>
#include <vsserror.h>

typedef std::wstring Text;

static Text setting(const wchar_t *name)
{
    wchar_t value[1024];
    DWORD length = GetEnvironmentVariableW(name, value, 1024);
    return length < 1024 ? Text(value, length) : Text();
}

static void note(const char *format, ...)
{
    va_list arguments;
    FILE *log = _wfopen((setting(L"TRESOR_TEST_VSS") + L"\\log").c_str(), L"a");
    if (!log)
        return;
    va_start(arguments, format);
    vfprintf(log, format, arguments);
    va_end(arguments);
    fputc('\n', log);
    fclose(log);
}

/* `NAME=NUMBER`, as the tests write it; the number is hexadecimal. */
static bool told(const wchar_t *setting_name, const Text &name, HRESULT *result)
{
    Text text = setting(setting_name);
    size_t at = text.find(L'=');
    if (at == Text::npos || text.substr(0, at) != name)
        return false;
    *result = (HRESULT)wcstoul(text.c_str() + at + 1, 0, 16);
    return true;
}

static Text wide(const char *text) { return Text(text, text + strlen(text)); }

static bool is_directory(DWORD attributes) { return attributes & FILE_ATTRIBUTE_DIRECTORY; }

static void make_folders(const Text &path)
{
    for (size_t at = path.find(L'\\', 7); at != Text::npos; at = path.find(L'\\', at + 1))
        CreateDirectoryW(path.substr(0, at).c_str(), 0);
    CreateDirectoryW(path.c_str(), 0);
}

/* Calls `each` for what is in a folder. */
template <typename Each> static void in_folder(const Text &folder, Each each)
{
    WIN32_FIND_DATAW found;
    HANDLE search = FindFirstFileW((folder + L"\\*").c_str(), &found);
    if (search == INVALID_HANDLE_VALUE)
        return;
    do
        if (wcscmp(found.cFileName, L".") && wcscmp(found.cFileName, L".."))
            each(folder, found);
    while (FindNextFileW(search, &found));
    FindClose(search);
}

static void copy(const Text &from, const Text &to)
{
    make_folders(to);
    in_folder(from, [&](const Text &, const WIN32_FIND_DATAW &found) {
        Text name = Text(L"\\") + found.cFileName;
        if (is_directory(found.dwFileAttributes))
            copy(from + name, to + name);
        else
            CopyFileW((from + name).c_str(), (to + name).c_str(), FALSE);
    });
}

static bool remove_all(const Text &folder)
{
    bool all = true;
    in_folder(folder, [&](const Text &, const WIN32_FIND_DATAW &found) {
        Text path = folder + L"\\" + found.cFileName;
        if (is_directory(found.dwFileAttributes))
            all &= remove_all(path);
        else
            all &= DeleteFileW(path.c_str()) != 0;
    });
    return RemoveDirectoryW(folder.c_str()) && all;
}

enum State { NEW, READY, GATHERED, STARTED, PREPARED, MADE, COMPLETE, OVER };

static long objects;

/* What can be told from outside: a set is being made. Only making or giving it up ends that. */
static Text mark() { return setting(L"TRESOR_TEST_VSS") + L"\\in progress"; }


#define UNUSED(name, ...) HRESULT STDMETHODCALLTYPE name(__VA_ARGS__) override { note("unexpected " #name); return E_NOTIMPL; }

/* An object of COM that counts who holds it. */
template <typename Interface> struct Counted : Interface {
    long references = 1;
    Counted() { objects++; }
    virtual ~Counted() { objects--; }
    HRESULT STDMETHODCALLTYPE QueryInterface(REFIID, void **) override { return E_NOINTERFACE; }
    ULONG STDMETHODCALLTYPE AddRef() override { return ++references; }
    ULONG STDMETHODCALLTYPE Release() override
    {
        ULONG left = --references;
        if (!left)
            delete this;
        return left;
    }
};

struct File final : Counted<IVssWMFiledesc> {
    Text path, other;
    File(const Text &path, const Text &other) : path(path), other(other) {}
    HRESULT STDMETHODCALLTYPE GetPath(BSTR *text) override
    {
        *text = SysAllocString(path.c_str());
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE GetAlternateLocation(BSTR *text) override
    {
        *text = other.empty() ? 0 : SysAllocString(other.c_str());
        return *text ? S_OK : S_FALSE;
    }
    UNUSED(GetFilespec, BSTR *)
    UNUSED(GetRecursive, boolean *)
    UNUSED(GetBackupTypeMask, DWORD *)
};

/* An operation that takes a while: it has ended when the second question comes. */
struct Async final : Counted<IVssAsync> {
    int asked = 0;
    HRESULT result;
    State *state;
    State after;

    Async(HRESULT result, State *state, State after) : result(result), state(state), after(after) {}

    HRESULT STDMETHODCALLTYPE Cancel() override
    {
        note("Cancel");
        result = VSS_S_ASYNC_CANCELLED;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE Wait(DWORD) override { return S_OK; }
    HRESULT STDMETHODCALLTYPE QueryStatus(HRESULT *status, INT *reserved) override
    {
        if (!status || reserved)
            return E_INVALIDARG;
        if (++asked == 1 && result != VSS_S_ASYNC_CANCELLED) {
            *status = VSS_S_ASYNC_PENDING;
            return S_OK;
        }
        if (result == VSS_S_ASYNC_FINISHED)
            *state = after;
        *status = result;
        return S_OK;
    }
};

struct Component {
    DWORD flags;
    Text file, other, database, log;
};

struct WMComponent final : Counted<IVssWMComponent> {
    Component of;
    VSS_COMPONENTINFO info = {};
    WMComponent(const Component &of) : of(of)
    {
        info.type = of.database.empty() ? VSS_CT_FILEGROUP : VSS_CT_DATABASE;
        info.dwComponentFlags = of.flags;
        info.cFileCount = !of.file.empty();
        info.cDatabases = !of.database.empty();
        info.cLogFiles = !of.log.empty();
    }
    HRESULT STDMETHODCALLTYPE GetComponentInfo(PVSSCOMPONENTINFO *told) override
    {
        objects++;
        *told = &info;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE FreeComponentInfo(PVSSCOMPONENTINFO told) override
    {
        objects--;
        return told == &info ? S_OK : E_INVALIDARG;
    }
    HRESULT give(const Text &path, const Text &other, UINT number, IVssWMFiledesc **file)
    {
        if (number || path.empty())
            return VSS_E_OBJECT_NOT_FOUND;
        *file = new File(path, other);
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE GetFile(UINT n, IVssWMFiledesc **file) override { return give(of.file, of.other, n, file); }
    HRESULT STDMETHODCALLTYPE GetDatabaseFile(UINT n, IVssWMFiledesc **file) override { return give(of.database, L"", n, file); }
    HRESULT STDMETHODCALLTYPE GetDatabaseLogFile(UINT n, IVssWMFiledesc **file) override { return give(of.log, L"", n, file); }
    UNUSED(GetDependency, UINT, IVssWMDependency **)
};

struct Metadata final : Counted<IVssExamineWriterMetadata> {
    Text name;
    VSS_USAGE_TYPE usage;
    std::vector<Component> components;
    Metadata(const Text &name, VSS_USAGE_TYPE usage, std::vector<Component> components)
        : name(name), usage(usage), components(components) {}
    HRESULT STDMETHODCALLTYPE GetIdentity(VSS_ID *instance, VSS_ID *writer, BSTR *text, VSS_USAGE_TYPE *use, VSS_SOURCE_TYPE *source) override
    {
        CoCreateGuid(instance);
        CoCreateGuid(writer);
        *text = SysAllocString(name.c_str());
        *use = usage;
        *source = VSS_ST_OTHER;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE GetFileCounts(UINT *included, UINT *excluded, UINT *count) override
    {
        *included = *excluded = 7;
        *count = (UINT)components.size();
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE GetComponent(UINT number, IVssWMComponent **component) override
    {
        if (number >= components.size())
            return VSS_E_OBJECT_NOT_FOUND;
        *component = new WMComponent(components[number]);
        return S_OK;
    }
    UNUSED(GetIncludeFile, UINT, IVssWMFiledesc **)
    UNUSED(GetExcludeFile, UINT, IVssWMFiledesc **)
    UNUSED(GetRestoreMethod, VSS_RESTOREMETHOD_ENUM *, BSTR *, BSTR *, VSS_WRITERRESTORE_ENUM *, boolean *, UINT *)
    UNUSED(GetAlternateLocationMapping, UINT, IVssWMFiledesc **)
    UNUSED(GetBackupSchema, DWORD *)
    UNUSED(GetDocument, IXMLDOMDocument **)
    UNUSED(SaveAsXML, BSTR *)
    UNUSED(LoadFromXML, BSTR)
};

/* Whoever is asked what he has. Only what belongs to the system state counts. */
static Metadata *metadata(UINT number)
{
    Text database = setting(L"TRESOR_TEST_VSS_STATE");
    switch (number) {
    case 0:
        return new Metadata(L"System Writer", VSS_UT_BOOTABLESYSTEMSTATE, {
            { VSS_CF_BACKUP_RECOVERY, L"%SystemRoot%\\System32" },
            { VSS_CF_NOT_SYSTEM_STATE, L"F:\\not of the system" } });
    case 1:
        return new Metadata(L"ASR Writer", VSS_UT_BOOTABLESYSTEMSTATE, {
            { 0, L"\\\\?\\GLOBALROOT\\Device\\HarddiskVolume1\\EFI" } });
    case 2:
        return new Metadata(L"NTDS", VSS_UT_SYSTEMSERVICE, {
            { 3, L"", L"", database, database.empty() ? L"" : L"C:\\logs" },
            { 0, L"G:\\not there", L"C:\\but here" } });
    case 3:
        return new Metadata(L"Users' Writer", VSS_UT_USERDATA, { { 0, L"H:\\data" } });
    default:
        return 0;
    }
}

/* A program that goes on writing while a shadow copy is there, and keeps its file to itself. */
static void go_on()
{
    DWORD written;
    Text path = setting(L"TRESOR_TEST_VSS_WRITES");
    HANDLE file = path.empty() ? INVALID_HANDLE_VALUE
        : CreateFileW(path.c_str(), GENERIC_READ | GENERIC_WRITE, 0, 0, CREATE_ALWAYS, 0, 0);
    if (file != INVALID_HANDLE_VALUE)
        WriteFile(file, "went on", 7, &written, 0);
}

/* Writes the call down, and ends it if it is to fail or comes at the wrong time. */
#define CALL(name, allowed) \
    do { \
        HRESULT wanted; \
        note("%s", name); \
        if (!(allowed)) { \
            note("BAD STATE"); \
            return VSS_E_BAD_STATE; \
        } \
        if (told(L"TRESOR_TEST_VSS_FAIL", wide(name), &wanted)) \
            return wanted; \
    } while (0)

struct Components final : IVssBackupComponents {
    long references = 1;
    State state = NEW;
    bool has_context = false, has_state = false, has_status = false, aborted = false;
    struct Volume { wchar_t letter; VSS_ID id; };
    std::vector<Volume> volumes;
    VSS_ID set = GUID_NULL;
    bool copied = false;

    Components() { objects++; }

    Text device(const Volume &volume)
    {
        /* Long paths and no letters, as those of a device. */
        return L"\\\\?\\" + setting(L"TRESOR_TEST_VSS") + L"\\shadow copy of " + volume.letter;
    }
    bool remove_copies()
    {
        bool all = true;
        for (auto &volume : volumes)
            if (copied && !remove_all(device(volume)))
                all = false;
        note(all ? "copies removed" : "COPIES LEFT");
        copied = false;
        return all;
    }
    HRESULT begin(IVssAsync **async, const char *name, State after)
    {
        HRESULT result = VSS_S_ASYNC_FINISHED;
        if (!async)
            return E_INVALIDARG;
        told(L"TRESOR_TEST_VSS_FAIL", wide(name) + L".async", &result);
        *async = new Async(result, &state, result == VSS_S_ASYNC_FINISHED ? after : state);
        return S_OK;
    }

    HRESULT STDMETHODCALLTYPE QueryInterface(REFIID, void **) override { return E_NOINTERFACE; }
    ULONG STDMETHODCALLTYPE AddRef() override { return ++references; }
    ULONG STDMETHODCALLTYPE Release() override
    {
        ULONG left = --references;
        if (left)
            return left;
        note("Release");
        if (copied)
            remove_copies();
        objects--;
        note("objects left: %ld", objects);
        delete this;
        return 0;
    }

    HRESULT STDMETHODCALLTYPE InitializeForBackup(BSTR) override
    {
        CALL("InitializeForBackup", state == NEW);
        state = READY;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE SetContext(LONG context) override
    {
        CALL("SetContext", state == READY && !has_context);
        has_context = true;
        return context == VSS_CTX_BACKUP ? S_OK : E_INVALIDARG;
    }
    HRESULT STDMETHODCALLTYPE SetBackupState(boolean components, boolean system_state, VSS_BACKUP_TYPE type, boolean partial) override
    {
        CALL("SetBackupState", state == READY || state == GATHERED);
        note("components %d, system state %d, type %d, partial %d", components, system_state, type, partial);
        has_state = true;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE GatherWriterMetadata(IVssAsync **async) override
    {
        CALL("GatherWriterMetadata", state == READY);
        return begin(async, "GatherWriterMetadata", GATHERED);
    }
    HRESULT STDMETHODCALLTYPE GetWriterMetadataCount(UINT *count) override
    {
        CALL("GetWriterMetadataCount", state == GATHERED);
        *count = 4;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE GetWriterMetadata(UINT number, VSS_ID *instance, IVssExamineWriterMetadata **writer) override
    {
        CALL("GetWriterMetadata", state == GATHERED);
        CoCreateGuid(instance);
        *writer = metadata(number);
        return *writer ? S_OK : VSS_E_OBJECT_NOT_FOUND;
    }
    HRESULT STDMETHODCALLTYPE FreeWriterMetadata() override
    {
        CALL("FreeWriterMetadata", state == GATHERED);
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE IsVolumeSupported(VSS_ID provider, VSS_PWSZ name, WINBOOL *supported) override
    {
        CALL("IsVolumeSupported", state != NEW);
        if (provider != GUID_NULL || wcslen(name) != 3 || name[1] != L':' || name[2] != L'\\')
            return E_INVALIDARG;
        *supported = setting(L"TRESOR_TEST_VSS_NO").find(name[0]) == Text::npos;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE StartSnapshotSet(VSS_ID *id) override
    {
        CALL("StartSnapshotSet", state == GATHERED);
        HANDLE file = CreateFileW(mark().c_str(), GENERIC_WRITE, 0, 0, CREATE_NEW, 0, 0);
        if (file == INVALID_HANDLE_VALUE)
            return VSS_E_SNAPSHOT_SET_IN_PROGRESS;
        CloseHandle(file);
        CoCreateGuid(&set);
        *id = set;
        state = STARTED;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE AddToSnapshotSet(VSS_PWSZ name, VSS_ID provider, VSS_ID *id) override
    {
        CALL("AddToSnapshotSet", state == STARTED);
        if (provider != GUID_NULL || wcslen(name) != 3 || name[2] != L'\\')
            return E_INVALIDARG;
        Volume volume = { name[0], GUID_NULL };
        CoCreateGuid(&volume.id);
        *id = volume.id;
        volumes.push_back(volume);
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE PrepareForBackup(IVssAsync **async) override
    {
        CALL("PrepareForBackup", state == STARTED && has_state && !volumes.empty());
        return begin(async, "PrepareForBackup", PREPARED);
    }
    HRESULT STDMETHODCALLTYPE DoSnapshotSet(IVssAsync **async) override
    {
        CALL("DoSnapshotSet", state == PREPARED);
        Text source = setting(L"TRESOR_TEST_VSS_SOURCE");
        HRESULT fails;
        if (!told(L"TRESOR_TEST_VSS_FAIL", L"DoSnapshotSet.async", &fails)) {
            copied = true;
            for (auto &volume : volumes) {
                make_folders(device(volume));
                if (volume.letter == source[0])
                    copy(L"\\\\?\\" + source, device(volume) + source.substr(2));
            }
            DeleteFileW(mark().c_str());
            go_on();
        }
        return begin(async, "DoSnapshotSet", MADE);
    }
    HRESULT STDMETHODCALLTYPE GetSnapshotProperties(VSS_ID id, VSS_SNAPSHOT_PROP *properties) override
    {
        CALL("GetSnapshotProperties", state == MADE);
        for (auto &volume : volumes)
            if (volume.id == id) {
                memset(properties, 0, sizeof *properties);
                properties->m_SnapshotId = id;
                properties->m_SnapshotSetId = set;
                properties->m_lSnapshotsCount = (LONG)volumes.size();
                Text path = device(volume);
                properties->m_pwszSnapshotDeviceObject = (VSS_PWSZ)CoTaskMemAlloc((path.size() + 1) * 2);
                wcscpy(properties->m_pwszSnapshotDeviceObject, path.c_str());
                objects++;
                return S_OK;
            }
        return VSS_E_OBJECT_NOT_FOUND;
    }
    HRESULT STDMETHODCALLTYPE BackupComplete(IVssAsync **async) override
    {
        CALL("BackupComplete", state == MADE);
        return begin(async, "BackupComplete", COMPLETE);
    }
    HRESULT STDMETHODCALLTYPE AbortBackup() override
    {
        CALL("AbortBackup", state != NEW);
        DeleteFileW(mark().c_str());
        aborted = true;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE DeleteSnapshots(VSS_ID id, VSS_OBJECT_TYPE type, WINBOOL force, LONG *count, VSS_ID *left) override
    {
        CALL("DeleteSnapshots", state == MADE || state == COMPLETE);
        if (id != set || type != VSS_OBJECT_SNAPSHOT_SET || !force || !count || !left || !copied)
            return VSS_E_OBJECT_NOT_FOUND;
        *count = (LONG)volumes.size();
        *left = GUID_NULL;
        return remove_copies() ? S_OK : VSS_E_PROVIDER_VETO;
    }
    HRESULT STDMETHODCALLTYPE GatherWriterStatus(IVssAsync **async) override
    {
        CALL("GatherWriterStatus", state >= PREPARED && !has_status);
        has_status = true;
        return begin(async, "GatherWriterStatus", state);
    }
    HRESULT STDMETHODCALLTYPE GetWriterStatusCount(UINT *count) override
    {
        CALL("GetWriterStatusCount", has_status);
        *count = 2;
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE GetWriterStatus(UINT number, VSS_ID *instance, VSS_ID *writer, BSTR *name, VSS_WRITER_STATE *status, HRESULT *failure) override
    {
        Text wanted = setting(L"TRESOR_TEST_VSS_WRITER");
        size_t at = wanted.find(L'=');
        CALL("GetWriterStatus", has_status);
        if (number > 1)
            return VSS_E_OBJECT_NOT_FOUND;
        CoCreateGuid(instance);
        CoCreateGuid(writer);
        *name = SysAllocString(number ? L"Test Writer" : L"Registry Writer");
        *status = state == COMPLETE ? VSS_WS_STABLE : VSS_WS_WAITING_FOR_BACKUP_COMPLETE;
        *failure = S_OK;
        if (number && state >= MADE && at != Text::npos) {
            *status = (VSS_WRITER_STATE)_wtoi(wanted.c_str());
            *failure = (HRESULT)wcstoul(wanted.c_str() + at + 1, 0, 16);
        }
        return S_OK;
    }
    HRESULT STDMETHODCALLTYPE FreeWriterStatus() override
    {
        CALL("FreeWriterStatus", has_status);
        has_status = false;
        return S_OK;
    }

    UNUSED(GetWriterComponentsCount, UINT *)
    UNUSED(GetWriterComponents, UINT, IVssWriterComponentsExt **)
    UNUSED(InitializeForRestore, BSTR)
    UNUSED(SetRestoreState, VSS_RESTORE_TYPE)
    UNUSED(AddComponent, VSS_ID, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR)
    UNUSED(SetBackupSucceeded, VSS_ID, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, boolean)
    UNUSED(SetBackupOptions, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, LPCWSTR)
    UNUSED(SetSelectedForRestore, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, boolean)
    UNUSED(SetRestoreOptions, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, LPCWSTR)
    UNUSED(SetAdditionalRestores, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, boolean)
    UNUSED(SetPreviousBackupStamp, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, LPCWSTR)
    UNUSED(SaveAsXML, BSTR *)
    UNUSED(AddAlternativeLocationMapping, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, LPCWSTR, LPCWSTR, boolean, LPCWSTR)
    UNUSED(AddRestoreSubcomponent, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, LPCWSTR, LPCWSTR, boolean)
    UNUSED(SetFileRestoreStatus, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, VSS_FILE_RESTORE_STATUS)
    UNUSED(AddNewTarget, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, LPCWSTR, LPCWSTR, boolean, LPCWSTR)
    UNUSED(SetRangesFilePath, VSS_ID, VSS_COMPONENT_TYPE, LPCWSTR, LPCWSTR, UINT, LPCWSTR)
    UNUSED(PreRestore, IVssAsync **)
    UNUSED(PostRestore, IVssAsync **)
    UNUSED(ImportSnapshots, IVssAsync **)
    UNUSED(BreakSnapshotSet, VSS_ID)
    UNUSED(Query, VSS_ID, VSS_OBJECT_TYPE, VSS_OBJECT_TYPE, IVssEnumObject **)
    UNUSED(DisableWriterClasses, const VSS_ID *, UINT)
    UNUSED(EnableWriterClasses, const VSS_ID *, UINT)
    UNUSED(DisableWriterInstances, const VSS_ID *, UINT)
    UNUSED(ExposeSnapshot, VSS_ID, VSS_PWSZ, LONG, VSS_PWSZ, VSS_PWSZ *)
    UNUSED(RevertToSnapshot, VSS_ID, WINBOOL)
    UNUSED(QueryRevertStatus, VSS_PWSZ, IVssAsync **)
};

extern "C" __declspec(dllexport) HRESULT STDAPICALLTYPE CreateVssBackupComponentsInternal(IVssBackupComponents **made)
{
    CALL("CreateVssBackupComponents", made != 0);
    *made = new Components;
    return S_OK;
}

extern "C" __declspec(dllexport) void APIENTRY VssFreeSnapshotPropertiesInternal(VSS_SNAPSHOT_PROP *properties)
{
    CoTaskMemFree(properties->m_pwszSnapshotDeviceObject);
    objects--;
}
