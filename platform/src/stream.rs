//! A stream (standard input, the output of a command) as a file to back up.

use std::io::{self, Read};
use std::ops::Range;
use std::time::SystemTime;

use tresor_engine::format::{Node, NodeKind, Time};
use tresor_engine::source::SourceFile;

/// A file that is read from `reader`, from its beginning to its end and only
/// once. Its entry: a regular file of this process's user, mode 0600, made now.
pub fn stream_source(reader: Box<dyn Read + Send>) -> Box<dyn SourceFile> {
    Box::new(Stream { reader, position: 0, node: node() })
}

struct Stream {
    reader: Box<dyn Read + Send>,
    position: u64,
    node: Node,
}

fn node() -> Node {
    let mut node = Node::new(Vec::new(), NodeKind::File);
    node.mode = 0o600;
    #[cfg(unix)]
    crate::unix::own(&mut node);
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let now = Time::new(i64::try_from(now.as_secs()).unwrap_or_default(), now.subsec_nanos());
    (node.mtime, node.atime, node.ctime) = (now, now, now);
    node
}

impl SourceFile for Stream {
    /// Fills the buffer unless the stream ends: a pipe's short reads must not
    /// look like the end of a file.
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset != self.position {
            let message = "a stream can only be read from its beginning to its end, and once";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut done = 0;
        while done < buf.len() {
            match self.reader.read(&mut buf[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.position += done as u64;
        Ok(done)
    }

    fn next_data(&mut self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(Some(offset..u64::MAX))
    }

    fn stat(&mut self) -> io::Result<Node> {
        Ok(self.node.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, and is interrupted before each.
    struct Slow(u8, bool);

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if self.0 == 10 {
                return Ok(0);
            }
            buf[0] = self.0;
            self.0 += 1;
            Ok(1)
        }
    }

    #[test]
    fn reads_in_order_and_fills_buffers() {
        let mut stream = stream_source(Box::new(Slow(0, false)));
        assert_eq!(stream.next_data(3).unwrap(), Some(3..u64::MAX));
        let mut buf = [0; 8];
        assert_eq!(stream.read_at(&mut buf, 0).unwrap(), 8);
        assert_eq!(buf, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(stream.read_at(&mut buf, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(stream.read_at(&mut buf, 8).unwrap(), 2);
        assert_eq!(stream.read_at(&mut buf, 10).unwrap(), 0);
    }

    #[test]
    fn has_an_entry_of_its_own() {
        let node = stream_source(Box::new(io::empty())).stat().unwrap();
        assert_eq!((node.kind, node.mode), (NodeKind::File, 0o600));
        assert!(node.mtime.seconds > 1_700_000_000);
    }
}
