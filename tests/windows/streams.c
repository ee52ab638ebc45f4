/* Alternate streams, sparse files and times of creation, which Wine doesn't have: stands between
 * tresor.exe and the calls of the system that have to do with them. It is part of a DLL that the program
 * loads anyway, and does nothing unless TRESOR_TEST_STREAMS names a folder. There lies
 *   ID+NAME   what the stream NAME holds of the file that has this number (its inode, in hexadecimal
 *             digits)
 *   ID.sparse if that file is sparse
 *   ID.created when it was made, if that was set, as Windows has it.
 * As NTFS does it, streams of a read-only file can't be opened to write to or to remove them.
 *
 *   TRESOR_TEST_STREAMS_LIST=fail|none   listing them fails, or the file system has none
 *   TRESOR_TEST_STREAMS_GONE=NAME        is listed, and not there when it is opened
 *   TRESOR_TEST_STREAMS_DENIED=NAME      is not to be opened
 *   TRESOR_TEST_STREAMS_CLOSED=1         who sets the rights of a file forbids to write to it */
#include <stdio.h>
#include <wchar.h>
#include <windows.h>
#include <winternl.h>

#define LISTED 22 /* FileStreamInformation */
#define BASIC 4   /* FileBasicInformation; its first field is the time of creation */
#define SET_SPARSE 0x900c4
#define CREATED 2
#define ACCESS_DENIED ((NTSTATUS)0xc0000022)
#define NOT_FOUND ((NTSTATUS)0xc0000034)
#define NO_RESOURCES ((NTSTATUS)0xc000009a)
#define NOT_SUPPORTED ((NTSTATUS)0xc00000bb)
#define TOO_LITTLE_ROOM ((NTSTATUS)0x80000005)

typedef NTSTATUS(NTAPI *create_t)(HANDLE *, ACCESS_MASK, OBJECT_ATTRIBUTES *, IO_STATUS_BLOCK *,
                                  LARGE_INTEGER *, ULONG, ULONG, ULONG, ULONG, void *, ULONG);
typedef NTSTATUS(NTAPI *query_t)(HANDLE, IO_STATUS_BLOCK *, void *, ULONG, int);
typedef NTSTATUS(NTAPI *set_t)(HANDLE, IO_STATUS_BLOCK *, void *, ULONG, int);
typedef BOOL(WINAPI *control_t)(HANDLE, DWORD, void *, DWORD, void *, DWORD, DWORD *, OVERLAPPED *);
typedef BOOL(WINAPI *secure_t)(HANDLE, SECURITY_INFORMATION, PSECURITY_DESCRIPTOR);

static create_t real_create;
static query_t real_query;
static set_t real_set;
static control_t real_control;
static secure_t real_secure;

static WCHAR folder[MAX_PATH];
static SRWLOCK lock = SRWLOCK_INIT;
static ULONGLONG closed[4096];
static int closed_count;

static BOOL is_set(const WCHAR *name, const WCHAR *wanted)
{
    WCHAR value[MAX_PATH];
    DWORD length = GetEnvironmentVariableW(name, value, MAX_PATH);
    return length > 0 && length < MAX_PATH && wcscmp(value, wanted) == 0;
}

static ULONGLONG number(HANDLE file, DWORD *attributes)
{
    BY_HANDLE_FILE_INFORMATION info = {0};
    GetFileInformationByHandle(file, &info);
    *attributes = info.dwFileAttributes;
    return (ULONGLONG)info.nFileIndexHigh << 32 | info.nFileIndexLow;
}

static void path_of(WCHAR *path, HANDLE file, const WCHAR *rest)
{
    DWORD attributes;
    swprintf(path, MAX_PATH, L"%ls\\%llx%ls", folder, number(file, &attributes), rest);
}

static BOOL is_closed(HANDLE file)
{
    DWORD attributes;
    ULONGLONG id = number(file, &attributes);
    BOOL found = (attributes & FILE_ATTRIBUTE_READONLY) != 0;
    AcquireSRWLockShared(&lock);
    for (int i = 0; i < closed_count; i++)
        found |= closed[i] == id;
    ReleaseSRWLockShared(&lock);
    return found;
}

/* The number may be that of a file that is gone. */
static void forget(HANDLE file)
{
    WCHAR pattern[MAX_PATH], path[MAX_PATH];
    WIN32_FIND_DATAW found;
    path_of(path, file, L".sparse");
    DeleteFileW(path);
    path_of(path, file, L".created");
    DeleteFileW(path);
    path_of(pattern, file, L"+*");
    HANDLE list = FindFirstFileW(pattern, &found);
    if (list == INVALID_HANDLE_VALUE)
        return;
    do {
        swprintf(path, MAX_PATH, L"%ls\\%ls", folder, found.cFileName);
        DeleteFileW(path);
    } while (FindNextFileW(list, &found));
    FindClose(list);
}

static NTSTATUS NTAPI create(HANDLE *handle, ACCESS_MASK access, OBJECT_ATTRIBUTES *object,
                             IO_STATUS_BLOCK *block, LARGE_INTEGER *size, ULONG attributes,
                             ULONG share, ULONG disposition, ULONG options, void *ea, ULONG ea_length)
{
    UNICODE_STRING *name = object->ObjectName;
    if (!object->RootDirectory || name->Length < 2 || name->Buffer[0] != ':') {
        NTSTATUS status = real_create(handle, access, object, block, size, attributes, share,
                                      disposition, options, ea, ea_length);
        if (status >= 0 && block->Information == CREATED)
            forget(*handle);
        return status;
    }
    WCHAR rest[MAX_PATH] = L"+", path[MAX_PATH], whole[MAX_PATH] = L"\\??\\";
    int length = name->Length / 2 - 1;
    wmemcpy(rest + 1, name->Buffer + 1, length);
    if (is_set(L"TRESOR_TEST_STREAMS_GONE", rest + 1))
        return NOT_FOUND;
    if (is_set(L"TRESOR_TEST_STREAMS_DENIED", rest + 1))
        return ACCESS_DENIED;
    if ((access & (FILE_WRITE_DATA | DELETE)) && is_closed(object->RootDirectory))
        return ACCESS_DENIED;
    path_of(path, object->RootDirectory, rest);
    wcscat(whole, path);
    UNICODE_STRING text = {wcslen(whole) * 2, wcslen(whole) * 2, whole};
    OBJECT_ATTRIBUTES own = *object;
    own.RootDirectory = NULL;
    own.ObjectName = &text;
    return real_create(handle, access, &own, block, size, attributes, share, disposition, options, ea,
                       ea_length);
}

/* One record of the list, at `at`; where the next one begins. */
static ULONG record(BYTE *at, const WCHAR *name, ULONGLONG size)
{
    ULONG length = wcslen(name) * 2;
    *(ULONG *)at = 0;
    *(ULONG *)(at + 4) = length;
    *(ULONGLONG *)(at + 8) = *(ULONGLONG *)(at + 16) = size;
    memcpy(at + 24, name, length);
    return (24 + length + 7) & ~7u;
}

static NTSTATUS list(HANDLE file, IO_STATUS_BLOCK *block, BYTE *to, ULONG room)
{
    WCHAR pattern[MAX_PATH], name[MAX_PATH];
    WIN32_FIND_DATAW found;
    DWORD attributes;
    ULONG at = 0, last = 0;
    number(file, &attributes);
    if (!(attributes & FILE_ATTRIBUTE_DIRECTORY))
        at = record(to, L"::$DATA", 0);
    path_of(pattern, file, L"+*");
    HANDLE all = FindFirstFileW(pattern, &found);
    if (all != INVALID_HANDLE_VALUE) {
        do {
            swprintf(name, MAX_PATH, L"%ls:$DATA", wcschr(found.cFileName, '+'));
            name[0] = ':';
            if (at + 24 + wcslen(name) * 2 > room) {
                FindClose(all);
                return TOO_LITTLE_ROOM;
            }
            if (at > 0)
                *(ULONG *)(to + last) = at - last;
            last = at;
            at += record(to + at, name, (ULONGLONG)found.nFileSizeHigh << 32 | found.nFileSizeLow);
        } while (FindNextFileW(all, &found));
        FindClose(all);
    }
    block->Information = at;
    return 0;
}

static NTSTATUS NTAPI query(HANDLE file, IO_STATUS_BLOCK *block, void *to, ULONG room, int class)
{
    if (class == LISTED) {
        if (is_set(L"TRESOR_TEST_STREAMS_LIST", L"fail"))
            return NO_RESOURCES;
        if (is_set(L"TRESOR_TEST_STREAMS_LIST", L"none"))
            return NOT_SUPPORTED;
        return list(file, block, to, room);
    }
    NTSTATUS status = real_query(file, block, to, room, class);
    if (status >= 0 && class == BASIC) {
        WCHAR path[MAX_PATH];
        path_of(path, file, L".sparse");
        if (GetFileAttributesW(path) != INVALID_FILE_ATTRIBUTES)
            ((ULONG *)to)[8] |= FILE_ATTRIBUTE_SPARSE_FILE;
        DWORD done;
        path_of(path, file, L".created");
        HANDLE created = CreateFileW(path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
        if (created != INVALID_HANDLE_VALUE) {
            ReadFile(created, to, 8, &done, NULL);
            CloseHandle(created);
        }
    }
    return status;
}

static NTSTATUS NTAPI set(HANDLE file, IO_STATUS_BLOCK *block, void *from, ULONG length, int class)
{
    NTSTATUS status = real_set(file, block, from, length, class);
    if (status >= 0 && class == BASIC && *(LONGLONG *)from > 0) {
        WCHAR path[MAX_PATH];
        DWORD done;
        path_of(path, file, L".created");
        HANDLE created = CreateFileW(path, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
        WriteFile(created, from, 8, &done, NULL);
        CloseHandle(created);
    }
    return status;
}

static BOOL WINAPI control(HANDLE file, DWORD code, void *in, DWORD in_length, void *out,
                           DWORD out_length, DWORD *filled, OVERLAPPED *overlapped)
{
    if (code != SET_SPARSE)
        return real_control(file, code, in, in_length, out, out_length, filled, overlapped);
    WCHAR path[MAX_PATH];
    path_of(path, file, L".sparse");
    if (in_length > 0 && !*(BYTE *)in)
        return DeleteFileW(path);
    HANDLE mark = CreateFileW(path, GENERIC_WRITE, 0, NULL, OPEN_ALWAYS, 0, NULL);
    return mark != INVALID_HANDLE_VALUE && CloseHandle(mark);
}

static BOOL WINAPI secure(HANDLE file, SECURITY_INFORMATION what, PSECURITY_DESCRIPTOR descriptor)
{
    DWORD attributes;
    if ((what & DACL_SECURITY_INFORMATION) && is_set(L"TRESOR_TEST_STREAMS_CLOSED", L"1")) {
        AcquireSRWLockExclusive(&lock);
        if (closed_count < 4096)
            closed[closed_count++] = number(file, &attributes);
        ReleaseSRWLockExclusive(&lock);
    }
    return real_secure(file, what, descriptor);
}

/* Puts a function in place of another one that the program has imported. */
static void replace(void *real, void *own)
{
    BYTE *base = (BYTE *)GetModuleHandleW(NULL);
    IMAGE_NT_HEADERS *head = (IMAGE_NT_HEADERS *)(base + ((IMAGE_DOS_HEADER *)base)->e_lfanew);
    IMAGE_DATA_DIRECTORY *where = &head->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_IMPORT];
    IMAGE_IMPORT_DESCRIPTOR *from = (IMAGE_IMPORT_DESCRIPTOR *)(base + where->VirtualAddress);
    for (; from->FirstThunk; from++) {
        for (void **slot = (void **)(base + from->FirstThunk); *slot; slot++) {
            DWORD before;
            if (*slot == real && VirtualProtect(slot, sizeof *slot, PAGE_READWRITE, &before)) {
                *slot = own;
                VirtualProtect(slot, sizeof *slot, before, &before);
            }
        }
    }
}

BOOL WINAPI DllMain(HINSTANCE self, DWORD reason, void *reserved)
{
    if (reason != DLL_PROCESS_ATTACH
        || !GetEnvironmentVariableW(L"TRESOR_TEST_STREAMS", folder, MAX_PATH))
        return TRUE;
    HMODULE ntdll = GetModuleHandleW(L"ntdll"), kernel32 = GetModuleHandleW(L"kernel32");
    real_create = (create_t)GetProcAddress(ntdll, "NtCreateFile");
    real_query = (query_t)GetProcAddress(ntdll, "NtQueryInformationFile");
    real_set = (set_t)GetProcAddress(ntdll, "NtSetInformationFile");
    real_control = (control_t)GetProcAddress(kernel32, "DeviceIoControl");
    real_secure = (secure_t)GetProcAddress(GetModuleHandleW(L"advapi32"), "SetKernelObjectSecurity");
    replace(real_create, create);
    replace(real_query, query);
    replace(real_set, set);
    replace(real_control, control);
    replace(real_secure, secure);
    return TRUE;
}
