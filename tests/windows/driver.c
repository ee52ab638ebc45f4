/*
 * Stands in for WinFsp's kernel driver, which can't run under Wine: a winfsp-x64.dll that
 * takes the place of the real one, forwards what it doesn't do itself to that
 * (winfsp_real.dll), and makes the requests that the driver would make. A test says which,
 * over a connection for each thread of the driver; see drive.py.
 */
#include <winsock2.h>
#include <windows.h>
#include <stdlib.h>
#undef _ReadWriteBarrier
#include <winfsp/winfsp.h>

enum { OPEN, READ, LIST, CLOSE, INFO, VOLUME, SECURITY, STREAMS, LINK, WRITE, SET, OVERWRITE,
       FLUSH, SET_SECURITY, SET_LABEL, SET_LINK, PARAMETERS, MOUNT_POINT, HANDLES };

#pragma pack(push, 1)
struct question {
    UINT32 what, options, access, length;
    UINT64 context, offset;
    UINT32 text;            /* bytes of UTF-16 that follow */
};
struct answer {
    UINT32 status, information;
    UINT64 context;
    UINT32 data, name;      /* bytes that follow */
    FSP_FSCTL_FILE_INFO info;
};
#pragma pack(pop)

static const UINT32 KINDS[] = {
    FspFsctlTransactCreateKind, FspFsctlTransactReadKind, FspFsctlTransactQueryDirectoryKind,
    FspFsctlTransactCloseKind, FspFsctlTransactQueryInformationKind,
    FspFsctlTransactQueryVolumeInformationKind, FspFsctlTransactQuerySecurityKind,
    FspFsctlTransactQueryStreamInformationKind, FspFsctlTransactFileSystemControlKind,
    FspFsctlTransactWriteKind, FspFsctlTransactSetInformationKind, FspFsctlTransactOverwriteKind,
    FspFsctlTransactFlushBuffersKind, FspFsctlTransactSetSecurityKind,
    FspFsctlTransactSetVolumeInformationKind, FspFsctlTransactFileSystemControlKind,
};

#define MOST (64u << 20)

/* What follows the head of a request or response: `Buffer`, which gcc puts elsewhere. */
#define TAIL(of) ((UINT8 *)(of) + sizeof *(of))

static FSP_FILE_SYSTEM *served;
static FSP_FSCTL_VOLUME_PARAMS parameters;
static WCHAR mount_point[MAX_PATH];
static HANDLE token, accepting, serving[4096];
static UINT32 served_so_far;
static SOCKET listening = INVALID_SOCKET;
static DWORD context_key = TLS_OUT_OF_INDEXES;

static int receive(SOCKET socket, void *to, UINT32 length)
{
    for (char *at = to; length; ) {
        int got = recv(socket, at, length, 0);
        if (got <= 0)
            return 0;
        at += got, length -= got;
    }
    return 1;
}

static int give(SOCKET socket, const void *from, UINT32 length)
{
    for (const char *at = from; length; ) {
        int sent = send(socket, at, length, 0);
        if (sent <= 0)
            return 0;
        at += sent, length -= sent;
    }
    return 1;
}

/* A part of a request that follows its head. Ends with a zero, as the driver's do. */
static FSP_FSCTL_TRANSACT_BUF part(FSP_FSCTL_TRANSACT_REQ *request, const void *bytes, UINT32 length)
{
    FSP_FSCTL_TRANSACT_BUF at = { request->Size - sizeof *request, length + sizeof(WCHAR) };
    memcpy(TAIL(request) + at.Offset, bytes, length);
    request->Size = (UINT16)(request->Size + ((length + sizeof(WCHAR) + 7) & ~7u));
    return at;
}

static void fill(FSP_FSCTL_TRANSACT_REQ *request, const struct question *q, const WCHAR *text, void *out)
{
    request->Size = sizeof *request;
    request->Kind = KINDS[q->what];
    /* In all kinds about an open file the contexts come first. */
    request->Req.Close.UserContext2 = q->context;
    switch (q->what) {
    case OPEN:
        memset(&request->Req, 0, sizeof request->Req);
        request->FileName = part(request, text, q->text);
        request->Req.Create.CreateOptions = q->options;
        request->Req.Create.AccessToken = (UINT64)GetCurrentProcessId() << 32 | (UINT32)(UINT_PTR)token;
        request->Req.Create.DesiredAccess = q->access;
        request->Req.Create.ShareAccess = 7;
        request->Req.Create.UserMode = 1;
        request->Req.Create.HasTraversePrivilege = 1;
        for (UINT32 i = 0; i < q->text / sizeof(WCHAR); i++)
            if (text[i] == L':') {
                request->Req.Create.NamedStream = (UINT16)(i * sizeof(WCHAR));
                break;
            }
        break;
    case READ:
    case WRITE:
        request->Req.Read.Address = (UINT_PTR)out;
        request->Req.Read.Offset = q->offset;
        request->Req.Read.Length = q->length;
        break;
    case LIST:
        request->Req.QueryDirectory.Address = (UINT_PTR)out;
        request->Req.QueryDirectory.Length = q->length;
        if (q->text)
            request->Req.QueryDirectory.Marker = part(request, text, q->text);
        break;
    case LINK:
    case SET_LINK:
        request->FileName = part(request, text, q->text);
        request->Req.FileSystemControl.FsControlCode =
            q->what == LINK ? FSCTL_GET_REPARSE_POINT : FSCTL_SET_REPARSE_POINT;
        if (q->what == SET_LINK)
            request->Req.FileSystemControl.Buffer = part(request, text, q->text);
        break;
    case SET:
        request->FileName = part(request, L"\\x", 4);
        request->Req.SetInformation.FileInformationClass = q->options;
        if (q->options == 10)
            request->Req.SetInformation.Info.Rename.NewFileName = part(request, text, q->text);
        if (q->options == 13)
            request->Req.SetInformation.Info.Disposition.Delete = 1;
        break;
    case SET_SECURITY:
        request->Req.SetSecurity.SecurityInformation = 4;
        request->Req.SetSecurity.SecurityDescriptor = part(request, text, q->text);
        break;
    case SET_LABEL:
        request->Req.SetVolumeInformation.FsInformationClass = 2;
        request->Req.SetVolumeInformation.Info.Label.VolumeLabel = part(request, text, q->text);
        break;
    }
}

static NTSTATUS ask(FSP_FSCTL_TRANSACT_REQ *request, FSP_FSCTL_TRANSACT_RSP *response)
{
    FSP_FILE_SYSTEM_OPERATION_CONTEXT context = { request, response };
    NTSTATUS status;
    memset(response, 0, sizeof *response);
    response->Size = sizeof *response;
    response->Kind = request->Kind;
    TlsSetValue(context_key, &context);
    status = FspFileSystemOpEnter(served, request, response);
    if (status >= 0) {
        status = served->Operations[request->Kind](served, request, response);
        FspFileSystemOpLeave(served, request, response);
    }
    TlsSetValue(context_key, 0);
    return status;
}

/* How many handles this process has, but for those of our threads. Wine doesn't know it, so
   each that could be is tried. */
static UINT32 handles(void)
{
    UINT32 count = 0 - served_so_far;
    DWORD flags;
    for (UINT_PTR handle = 4; handle < 4 * 65536; handle += 4)
        count += !!GetHandleInformation((HANDLE)handle, &flags);
    return count;
}

/* What of a response belongs to which question. */
static void sort_out(const struct question *q, FSP_FSCTL_TRANSACT_RSP *r, struct answer *a,
    const void **data, const void **name, const void *out)
{
    FSP_FSCTL_TRANSACT_BUF at = { 0, 0 };
    switch (q->what) {
    case OPEN:
        if (a->status == STATUS_REPARSE) {
            at = r->Rsp.Create.Reparse.Buffer;
            break;
        }
        a->information = r->Rsp.Create.Opened.GrantedAccess;
        a->context = r->Rsp.Create.Opened.UserContext2;
        a->info = r->Rsp.Create.Opened.FileInfo;
        a->name = r->Rsp.Create.Opened.FileName.Size;
        *name = TAIL(r) + r->Rsp.Create.Opened.FileName.Offset;
        break;
    case READ:
    case LIST:
        a->data = a->information <= q->length ? a->information : 0;
        *data = out;
        break;
    case INFO:
        a->info = r->Rsp.QueryInformation.FileInfo;
        break;
    case VOLUME:
        a->data = sizeof r->Rsp.QueryVolumeInformation.VolumeInfo;
        *data = &r->Rsp.QueryVolumeInformation.VolumeInfo;
        break;
    case SECURITY: at = r->Rsp.QuerySecurity.SecurityDescriptor; break;
    case STREAMS: at = r->Rsp.QueryStreamInformation.Buffer; break;
    case LINK: at = r->Rsp.FileSystemControl.Buffer; break;
    }
    if (at.Size) {
        a->data = at.Size;
        *data = TAIL(r) + at.Offset;
    }
}

static int answer(SOCKET socket, const struct question *q, const WCHAR *text)
{
    FSP_FSCTL_TRANSACT_REQ *request = calloc(1, FSP_FSCTL_TRANSACT_REQ_SIZEMAX);
    FSP_FSCTL_TRANSACT_RSP *response = calloc(1, FSP_FSCTL_TRANSACT_RSP_SIZEMAX);
    UINT32 room = q->length < MOST ? q->length : MOST;
    void *out = calloc(1, room + 1);
    const void *data = 0, *name = 0;
    struct answer a;
    int done;
    memset(&a, 0, sizeof a);
    if (q->what == PARAMETERS) {
        a.data = sizeof parameters;
        data = &parameters;
    } else if (q->what == MOUNT_POINT) {
        a.data = wcslen(mount_point) * sizeof(WCHAR);
        data = mount_point;
    } else if (q->what == HANDLES) {
        a.information = handles();
    } else if (q->what < PARAMETERS && q->length == room) {
        fill(request, q, text, out);
        a.status = ask(request, response);
        a.information = response->IoStatus.Information;
        if ((NTSTATUS)a.status >= 0)
            sort_out(q, response, &a, &data, &name, out);
    } else
        a.status = STATUS_INVALID_PARAMETER;
    done = give(socket, &a, sizeof a) && give(socket, data, a.data) && give(socket, name, a.name);
    free(out);
    free(request);
    free(response);
    return done;
}

static DWORD WINAPI serve(void *argument)
{
    SOCKET socket = (SOCKET)argument;
    struct question q;
    WCHAR text[4096];
    while (receive(socket, &q, sizeof q) && q.text <= sizeof text - 2 && receive(socket, text, q.text)) {
        text[q.text / sizeof(WCHAR)] = 0;
        if (!answer(socket, &q, text))
            break;
    }
    closesocket(socket);
    return 0;
}

static DWORD WINAPI accept_all(void *argument)
{
    SOCKET socket;
    while (served_so_far < ARRAYSIZE(serving) && (socket = accept(listening, 0, 0)) != INVALID_SOCKET)
        serving[served_so_far++] = CreateThread(0, 0, serve, (void *)socket, 0, 0);
    return 0;
}

FSP_API FSP_FILE_SYSTEM_OPERATION_CONTEXT *FspFileSystemGetOperationContext(VOID)
{
    return TlsGetValue(context_key);
}

FSP_API NTSTATUS FspFileSystemCreate(PWSTR device, const FSP_FSCTL_VOLUME_PARAMS *params,
    const FSP_FILE_SYSTEM_INTERFACE *callbacks, FSP_FILE_SYSTEM **made)
{
    HANDLE process;
    if (context_key == TLS_OUT_OF_INDEXES)
        context_key = TlsAlloc();
    OpenProcessToken(GetCurrentProcess(), TOKEN_ALL_ACCESS, &process);
    DuplicateTokenEx(process, TOKEN_ALL_ACCESS, 0, SecurityImpersonation, TokenImpersonation, &token);
    CloseHandle(process);
    parameters = *params;
    served = calloc(1, sizeof *served);
    served->Interface = callbacks;
    served->UmFileContextIsUserContext2 = params->UmFileContextIsUserContext2;
    served->UmFileContextIsFullContext = params->UmFileContextIsFullContext;
    served->Operations[FspFsctlTransactCreateKind] = FspFileSystemOpCreate;
    served->Operations[FspFsctlTransactOverwriteKind] = FspFileSystemOpOverwrite;
    served->Operations[FspFsctlTransactCleanupKind] = FspFileSystemOpCleanup;
    served->Operations[FspFsctlTransactCloseKind] = FspFileSystemOpClose;
    served->Operations[FspFsctlTransactReadKind] = FspFileSystemOpRead;
    served->Operations[FspFsctlTransactWriteKind] = FspFileSystemOpWrite;
    served->Operations[FspFsctlTransactQueryInformationKind] = FspFileSystemOpQueryInformation;
    served->Operations[FspFsctlTransactSetInformationKind] = FspFileSystemOpSetInformation;
    served->Operations[FspFsctlTransactFlushBuffersKind] = FspFileSystemOpFlushBuffers;
    served->Operations[FspFsctlTransactQueryVolumeInformationKind] = FspFileSystemOpQueryVolumeInformation;
    served->Operations[FspFsctlTransactSetVolumeInformationKind] = FspFileSystemOpSetVolumeInformation;
    served->Operations[FspFsctlTransactQueryDirectoryKind] = FspFileSystemOpQueryDirectory;
    served->Operations[FspFsctlTransactFileSystemControlKind] = FspFileSystemOpFileSystemControl;
    served->Operations[FspFsctlTransactQuerySecurityKind] = FspFileSystemOpQuerySecurity;
    served->Operations[FspFsctlTransactSetSecurityKind] = FspFileSystemOpSetSecurity;
    served->Operations[FspFsctlTransactQueryStreamInformationKind] = FspFileSystemOpQueryStreamInformation;
    *made = served;
    return STATUS_SUCCESS;
}

FSP_API VOID FspFileSystemDelete(FSP_FILE_SYSTEM *gone)
{
    FspFileSystemRemoveMountPoint(gone);
    free(gone);
}

/* As the real one does it, a folder must not be there: it is made, and removed. */
static int is_folder(const WCHAR *point)
{
    return point[0] != L'\\' && point[0] && point[2];
}

FSP_API NTSTATUS FspFileSystemSetMountPoint(FSP_FILE_SYSTEM *unused, PWSTR point)
{
    if (point[0] == L'\\' && (parameters.Prefix[0] || getenv("TRESOR_TEST_NO_MOUNT_MANAGER")))
        return STATUS_ACCESS_DENIED;
    if (is_folder(point) && (parameters.Prefix[0] || !CreateDirectoryW(point, 0)))
        return STATUS_OBJECT_NAME_COLLISION;
    lstrcpynW(mount_point, point, MAX_PATH);
    return STATUS_SUCCESS;
}

FSP_API VOID FspFileSystemRemoveMountPoint(FSP_FILE_SYSTEM *unused)
{
    if (is_folder(mount_point))
        RemoveDirectoryW(mount_point);
    mount_point[0] = 0;
}

FSP_API NTSTATUS FspFileSystemStartDispatcher(FSP_FILE_SYSTEM *unused, ULONG threads)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    WSADATA sockets;
    const char *port = getenv("TRESOR_TEST_DRIVER");
    WSAStartup(MAKEWORD(2, 2), &sockets);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((unsigned short)atoi(port ? port : "0"));
    listening = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 16))
        return STATUS_UNSUCCESSFUL;
    accepting = CreateThread(0, 0, accept_all, 0, 0, 0);
    return STATUS_SUCCESS;
}

FSP_API VOID FspFileSystemStopDispatcher(FSP_FILE_SYSTEM *unused)
{
    /* As the real one does: who has called this may end the process. */
    closesocket(listening);
    WaitForSingleObject(accepting, 5000);
    for (UINT32 i = 0; i < served_so_far; i++)
        WaitForSingleObject(serving[i], 5000);
}
