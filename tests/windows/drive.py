"""Makes the requests of Windows' kernel to a drive, through the stand-in of driver.c."""

import socket
import struct
import time

(OPEN, READ, LIST, CLOSE, INFO, VOLUME, SECURITY, STREAMS, LINK, WRITE, SET, OVERWRITE, FLUSH,
 SET_SECURITY, SET_LABEL, SET_LINK, PARAMETERS, MOUNT_POINT, HANDLES) = range(19)

SUCCESS = 0
READ_ONLY = 0xC00000A2
END_OF_FILE = 0xC0000011
NOT_FOUND = 0xC0000034
ACCESS_DENIED = 0xC0000022
IS_A_DIRECTORY = 0xC00000BA
NOT_A_DIRECTORY = 0xC0000103
REPARSE = 0x104

DIRECTORY_FILE, NON_DIRECTORY_FILE, OPEN_LINK = 0x1, 0x40, 0x200000
DELETE_ON_CLOSE = 0x1000
READ_DATA, READ_ATTRIBUTES, READ_CONTROL, SYNCHRONIZE = 0x1, 0x80, 0x20000, 0x100000
MAXIMUM = 0x2000000
# What Windows makes of the GENERIC_READ of a program.
GENERIC_READ = 0x120089
TO_READ = READ_DATA | READ_ATTRIBUTES | READ_CONTROL | SYNCHRONIZE

QUESTION = struct.Struct("<IIIIQQI")
FILE_INFO = struct.Struct("<IIQQQQQQQII")
ANSWER = struct.Struct("<IIQII")


class Status(Exception):
    def __init__(self, status):
        super().__init__(f"{status:#x}")
        self.status = status


class Info:
    def __init__(self, data):
        (self.attributes, self.tag, self.allocation, self.size, self.created, self.accessed,
         self.written, self.changed, self.number, _, _) = FILE_INFO.unpack(data)


class Thread:
    """One thread of the driver."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(120)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def receive(self, length):
        parts = []
        while length:
            part = self.socket.recv(min(length, 1 << 20))
            if not part:
                raise ConnectionError("the driver has gone")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def ask(self, *question, **more):
        """The status, and the parts of the answer."""
        self.socket.sendall(packed(*question, **more))
        return self.answer()

    def ask_all(self, questions):
        """The answers to a few, which are sent together: small ones, so that they fit."""
        self.socket.sendall(b"".join(packed(**question) for question in questions))
        return [self.answer() for _ in questions]

    def answer(self):
        status, information, context, data, name = ANSWER.unpack(self.receive(ANSWER.size))
        info = Info(self.receive(FILE_INFO.size))
        return status, information, context, info, self.receive(data), self.receive(name)

    def done(self, *question, **more):
        answer = self.ask(*question, **more)
        if answer[0] != SUCCESS:
            raise Status(answer[0])
        return answer

    def open(self, path, options=OPEN_LINK, access=TO_READ, disposition=1):
        answer = self.done(OPEN, options=options | disposition << 24, access=access, text=wide(path))
        return Handle(self, answer[2], answer[3], answer[5].decode("utf-16-le"), answer[1])

    def status_of(self, *question, **more):
        return self.ask(*question, **more)[0]


def packed(what, context=0, options=0, access=0, length=0, offset=0, text=b""):
    return QUESTION.pack(what, options, access, length, context, offset, len(text)) + text


class Handle:
    def __init__(self, thread, context, info, name, granted):
        self.thread, self.context, self.info, self.name = thread, context, info, name
        self.granted = granted

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.done(CLOSE, self.context)

    def read(self, offset, length):
        """Nothing at the end of the file."""
        answer = self.thread.ask(READ, self.context, length=length, offset=offset)
        if answer[0] == END_OF_FILE:
            return b""
        if answer[0] != SUCCESS:
            raise Status(answer[0])
        return answer[4]

    def content(self, step=1 << 20):
        parts, offset = [], 0
        while part := self.read(offset, step):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def list(self, room=4096, marker=b""):
        """Every name with its attributes, asked for as Windows does it."""
        while True:
            data = self.thread.done(LIST, self.context, length=room, text=marker)[4]
            at, last = 0, None
            while at + 2 <= len(data):
                size = struct.unpack_from("<H", data, at)[0]
                # So it ends if nothing follows.
                if size == 0:
                    return
                last = data[at + 104:at + size]
                yield last.decode("utf-16-le", "surrogatepass"), Info(data[at + 8:at + 80])
                at += (size + 7) // 8 * 8
            if last is None:
                raise AssertionError(f"nothing fits {room} bytes")
            marker = last

    def asked_info(self):
        return self.thread.done(INFO, self.context)[3]

    def security(self):
        return self.thread.done(SECURITY, self.context)[4]

    def streams(self):
        data = self.thread.done(STREAMS, self.context)[4]
        found, at = {}, 0
        while at + 24 <= len(data):
            size, length = struct.unpack_from("<H6xQ", data, at)
            if size == 0:
                break
            found[data[at + 24:at + size].decode("utf-16-le")] = length
            at += (size + 7) // 8 * 8
        return found


def wide(text):
    return text.encode("utf-16-le", "surrogatepass")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(port, is_alive, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and is_alive():
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the drive doesn't answer")
