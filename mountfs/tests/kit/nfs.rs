//! A served drive, and a client for it that does what it is told, be it wrong.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nfs3_types::mount::{self, dirpath, mountres3};
use nfs3_types::nfs3::{self, *};
use nfs3_types::rpc::{
    RPC_VERSION_2, accept_stat_data, auth_unix, call_body, fragment_header, msg_body, opaque_auth,
    reply_body, rpc_msg,
};
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack};
use tresor_mountfs::nfs::{Mounted, ServeOptions, mount as serve};
use tresor_mountfs::{OwnDrive, SnapshotFs};

/// A drive that is served while this lives.
pub struct Served {
    pub fs: Arc<SnapshotFs>,
    pub mounted: Mounted,
    /// What was said of operations that failed.
    pub complaints: Arc<Mutex<Vec<String>>>,
}

impl Served {
    pub fn new(fs: Arc<SnapshotFs>) -> Self {
        Self::with(fs, |_| {})
    }

    pub fn with(fs: Arc<SnapshotFs>, change: impl FnOnce(&mut ServeOptions)) -> Self {
        let complaints = Arc::<Mutex<Vec<String>>>::default();
        let to = complaints.clone();
        let mut options = ServeOptions {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            allow_other: false,
            idle_exit: None,
            repository: None,
            own: OwnDrive::default(),
            on_error: Arc::new(move |text| to.lock().unwrap().push(text.into())),
        };
        change(&mut options);
        let mounted = serve(fs.clone(), None, &options).unwrap();
        Self { fs, mounted, complaints }
    }

    pub fn address(&self) -> SocketAddr {
        self.mounted.server().address()
    }

    pub fn export(&self) -> &str {
        self.mounted.server().export()
    }

    /// A client that has mounted it, as the user who runs this.
    pub fn client(&self) -> Client {
        let mut client = Client::new(self.address());
        client.root = client.mount(self.export()).unwrap();
        client
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.mounted.server().stop();
    }
}

pub struct Client {
    pub stream: TcpStream,
    pub who: auth_unix,
    pub root: nfs_fh3,
    xid: u32,
}

pub fn name(text: impl AsRef<[u8]>) -> filename3<'static> {
    text.as_ref().to_vec().into()
}

fn fail<T>(what: impl std::fmt::Debug) -> io::Result<T> {
    Err(io::Error::other(format!("{what:?}")))
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        // No test may wait for ever.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let who = auth_unix { uid, gid: uid, ..auth_unix::default() };
        Self { stream, who, root: nfs_fh3::default(), xid: 0 }
    }

    /// The same drive for another user, who is in this group.
    pub fn of(&self, uid: u32, gid: u32) -> Self {
        let mut client = Self::new(self.stream.peer_addr().unwrap());
        client.who = auth_unix { uid, gid, ..auth_unix::default() };
        client.root = self.root.clone();
        client
    }

    /// A whole call, with the next number, as it is sent.
    pub fn record(&mut self, program: u32, version: u32, proc: u32, args: &impl Pack) -> Vec<u8> {
        self.xid += 1;
        let cred = opaque_auth::auth_unix(&self.who);
        let verf = opaque_auth::default();
        let call =
            call_body { rpcvers: RPC_VERSION_2, prog: program, vers: version, proc, cred, verf };
        let mut body = Vec::new();
        rpc_msg { xid: self.xid, body: msg_body::CALL(call) }.pack(&mut body).unwrap();
        args.pack(&mut body).unwrap();
        let mark = fragment_header::new(body.len() as u32, true).into_xdr_buf();
        [&mark[..], &body].concat()
    }

    /// Asks, and goes on; the number of the call.
    pub fn ask(&mut self, proc: NFS_PROGRAM, args: &impl Pack) -> u32 {
        let record = self.record(nfs3::PROGRAM, nfs3::VERSION, proc as u32, args);
        self.stream.write_all(&record).unwrap();
        self.xid
    }

    /// The next reply: of which call, and what it says.
    pub fn reply<T: Unpack>(&mut self) -> io::Result<(u32, T)> {
        let mut mark = [0; 4];
        self.stream.read_exact(&mut mark)?;
        let mark = fragment_header::from(mark);
        assert!(mark.eof());
        let mut body = vec![0; mark.fragment_length() as usize];
        self.stream.read_exact(&mut body)?;
        let mut body = &body[..];
        let (head, _) = rpc_msg::unpack(&mut body).unwrap();
        match head.body {
            msg_body::REPLY(reply_body::MSG_ACCEPTED(accepted)) => match accepted.reply_data {
                accept_stat_data::SUCCESS => {}
                other => return fail(other),
            },
            other => return fail(other),
        }
        let (result, _) = T::unpack(&mut body).unwrap();
        assert!(body.is_empty(), "the reply is too long");
        Ok((head.xid, result))
    }

    pub fn call<T: Unpack>(&mut self, proc: NFS_PROGRAM, args: &impl Pack) -> T {
        let xid = self.ask(proc, args);
        let (of, result) = self.reply().unwrap();
        assert_eq!(of, xid);
        result
    }

    pub fn other<T: Unpack>(
        &mut self,
        (program, version): (u32, u32),
        proc: u32,
        args: &impl Pack,
    ) -> io::Result<T> {
        let record = self.record(program, version, proc, args);
        self.stream.write_all(&record)?;
        Ok(self.reply()?.1)
    }

    pub fn mount(&mut self, path: &str) -> Result<nfs_fh3, String> {
        let path = dirpath(Opaque::owned(path.as_bytes().to_vec()));
        match self.other((mount::PROGRAM, mount::VERSION), 1, &path).unwrap() {
            mountres3::Ok(ok) => Ok(nfs_fh3 { data: Opaque::owned(ok.fhandle.0.to_vec()) }),
            mountres3::Err(e) => Err(e.to_string()),
        }
    }

    pub fn lookup(&mut self, dir: &nfs_fh3, text: impl AsRef<[u8]>) -> Result<Found, nfsstat3> {
        let what = diropargs3 { dir: dir.clone(), name: name(text) };
        match self.call(NFS_PROGRAM::NFSPROC3_LOOKUP, &LOOKUP3args { what }) {
            LOOKUP3res::Ok(ok) => Ok(Found { handle: ok.object, attr: ok.obj_attributes.unwrap() }),
            LOOKUP3res::Err((e, _)) => Err(e),
        }
    }

    /// From the root, name by name.
    pub fn at(&mut self, path: &str) -> Result<Found, nfsstat3> {
        let root = self.root.clone();
        let attr = self.attr(&root)?;
        let start = Found { handle: root, attr };
        let names = path.split('/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(start, |at, name| self.lookup(&at.handle, name))
    }

    pub fn attr(&mut self, at: &nfs_fh3) -> Result<fattr3, nfsstat3> {
        let args = GETATTR3args { object: at.clone() };
        match self.call(NFS_PROGRAM::NFSPROC3_GETATTR, &args) {
            GETATTR3res::Ok(ok) => Ok(ok.obj_attributes),
            GETATTR3res::Err((e, _)) => Err(e),
        }
    }

    pub fn access(&mut self, at: &nfs_fh3, access: u32) -> Result<u32, nfsstat3> {
        let args = ACCESS3args { object: at.clone(), access };
        match self.call(NFS_PROGRAM::NFSPROC3_ACCESS, &args) {
            ACCESS3res::Ok(ok) => Ok(ok.access),
            ACCESS3res::Err((e, _)) => Err(e),
        }
    }

    pub fn info(&mut self) -> FSINFO3resok {
        let args = FSINFO3args { fsroot: self.root.clone() };
        match self.call(NFS_PROGRAM::NFSPROC3_FSINFO, &args) {
            FSINFO3res::Ok(ok) => ok,
            FSINFO3res::Err((e, _)) => panic!("{e}"),
        }
    }

    pub fn readlink(&mut self, at: &nfs_fh3) -> Result<Vec<u8>, nfsstat3> {
        let args = READLINK3args { symlink: at.clone() };
        match self.call(NFS_PROGRAM::NFSPROC3_READLINK, &args) {
            READLINK3res::Ok(ok) => Ok(ok.data.0.into_owned()),
            READLINK3res::Err((e, _)) => Err(e),
        }
    }

    /// Bytes, and whether that is the end of the file.
    pub fn read(
        &mut self,
        file: &nfs_fh3,
        offset: u64,
        count: u32,
    ) -> Result<(Vec<u8>, bool), nfsstat3> {
        let args = READ3args { file: file.clone(), offset, count };
        match self.call(NFS_PROGRAM::NFSPROC3_READ, &args) {
            READ3res::Ok(ok) => {
                assert_eq!(ok.count as usize, ok.data.len());
                Ok((ok.data.into_owned(), ok.eof))
            }
            READ3res::Err((e, _)) => Err(e),
        }
    }

    pub fn read_all(&mut self, file: &nfs_fh3, step: u32) -> Result<Vec<u8>, nfsstat3> {
        let mut bytes = Vec::new();
        loop {
            let (more, eof) = self.read(file, bytes.len() as u64, step)?;
            assert!(eof || !more.is_empty());
            bytes.extend(more);
            if eof {
                return Ok(bytes);
            }
        }
    }

    /// One reply of a listing that doesn't change.
    pub fn list_part(
        &mut self,
        dir: &nfs_fh3,
        cookie: u64,
        count: u32,
    ) -> Result<dirlist3<'static>, nfsstat3> {
        Ok(self.list_on(dir, (cookie, cookieverf3::default()), count)?.reply)
    }

    /// One reply of a listing that goes on where another one has ended.
    pub fn list_on(
        &mut self,
        dir: &nfs_fh3,
        (cookie, cookieverf): (u64, cookieverf3),
        count: u32,
    ) -> Result<READDIR3resok<'static>, nfsstat3> {
        let args = READDIR3args { dir: dir.clone(), cookie, cookieverf, count };
        match self.call(NFS_PROGRAM::NFSPROC3_READDIR, &args) {
            READDIR3res::Ok(ok) => {
                assert!(ok.packed_size() <= count as usize);
                Ok(ok)
            }
            READDIR3res::Err((e, _)) => Err(e),
        }
    }

    /// The same with attributes and handles.
    pub fn list_part_plus(
        &mut self,
        dir: &nfs_fh3,
        cookie: u64,
        count: u32,
    ) -> Result<dirlistplus3<'static>, nfsstat3> {
        Ok(self.list_on_plus(dir, (cookie, cookieverf3::default()), count)?.reply)
    }

    pub fn list_on_plus(
        &mut self,
        dir: &nfs_fh3,
        (cookie, cookieverf): (u64, cookieverf3),
        count: u32,
    ) -> Result<READDIRPLUS3resok<'static>, nfsstat3> {
        let (dircount, maxcount) = (count, count);
        let args = READDIRPLUS3args { dir: dir.clone(), cookie, cookieverf, dircount, maxcount };
        match self.call(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &args) {
            READDIRPLUS3res::Ok(ok) => {
                assert!(ok.packed_size() <= count as usize);
                Ok(ok)
            }
            READDIRPLUS3res::Err((e, _)) => Err(e),
        }
    }

    pub fn list(&mut self, dir: &nfs_fh3, count: u32) -> Result<Vec<entry3<'static>>, nfsstat3> {
        let (mut all, mut verifier) = (Vec::<entry3<'static>>::new(), cookieverf3::default());
        loop {
            let cookie = all.last().map_or(0, |e| e.cookie);
            let part = self.list_on(dir, (cookie, verifier), count)?;
            verifier = part.cookieverf;
            all.extend(part.reply.entries.0);
            if part.reply.eof {
                return Ok(all);
            }
        }
    }

    pub fn list_plus(
        &mut self,
        dir: &nfs_fh3,
        count: u32,
    ) -> Result<Vec<entryplus3<'static>>, nfsstat3> {
        let (mut all, mut verifier) = (Vec::<entryplus3<'static>>::new(), cookieverf3::default());
        loop {
            let cookie = all.last().map_or(0, |e| e.cookie);
            let part = self.list_on_plus(dir, (cookie, verifier), count)?;
            verifier = part.cookieverf;
            all.extend(part.reply.entries.0);
            if part.reply.eof {
                return Ok(all);
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Found {
    pub handle: nfs_fh3,
    pub attr: fattr3,
}
