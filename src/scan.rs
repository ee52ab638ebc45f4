//! Counts what a backup will have to do, so that its progress can say how far it is.
//! Only names and lengths are looked at; errors are left to the backup.

use std::sync::Arc;

use tresor_engine::archiver::BackupOptions;
use tresor_engine::source::SourceDir;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub entries: u64,
    pub bytes: u64,
}

/// A directory to look through.
struct Frame {
    dir: Arc<dyn SourceDir>,
    path: Vec<u8>,
    names: Vec<Vec<u8>>,
    device: Option<u64>,
}

/// Counts below all paths; `None` if told to stop.
pub fn count(
    root: &Arc<dyn SourceDir>,
    options: &BackupOptions,
    stop: &dyn Fn() -> bool,
) -> Option<Totals> {
    let mut scan = Scan { options, totals: Totals::default(), stack: Vec::new() };
    for path in outermost(options) {
        scan.start(root, path);
        while let Some(mut frame) = scan.stack.pop() {
            if stop() {
                return None;
            }
            if let Some(name) = frame.names.pop() {
                let below = scan.entry(&frame, &name);
                scan.stack.push(frame);
                scan.stack.extend(below);
            }
        }
    }
    Some(scan.totals)
}

/// The paths that lie in no other one.
fn outermost(options: &BackupOptions) -> Vec<&[u8]> {
    let mut out: Vec<&[u8]> = Vec::new();
    let mut paths: Vec<&[u8]> = options.paths.iter().map(|p| p.0.as_slice()).collect();
    paths.sort_unstable_by_key(|p| p.len());
    for path in paths {
        let inside = |outer: &&[u8]| {
            let rest = path.strip_prefix(*outer);
            rest.is_some_and(|rest| rest.is_empty() || outer.ends_with(b"/") || rest[0] == b'/')
        };
        if !out.iter().any(inside) {
            out.push(path);
        }
    }
    out
}

struct Scan<'a> {
    options: &'a BackupOptions,
    totals: Totals,
    stack: Vec<Frame>,
}

impl Scan<'_> {
    /// Goes down to a path and leaves the frame it is in on the stack.
    fn start(&mut self, root: &Arc<dyn SourceDir>, path: &[u8]) {
        let mut names: Vec<_> = path.split(|b| *b == b'/').filter(|n| !n.is_empty()).collect();
        let Some(last) = names.pop() else {
            let names = root.names().unwrap_or_default();
            self.stack.push(Frame { dir: root.clone(), path: Vec::new(), names, device: None });
            return;
        };
        let below = names.iter().try_fold(root.clone(), |dir, name| dir.open_dir(name));
        if let Ok(dir) = below {
            let path = path[..path.len() - last.len() - 1].to_vec();
            self.stack.push(Frame { dir, path, names: vec![last.to_vec()], device: None });
        }
    }

    fn entry(&mut self, frame: &Frame, name: &[u8]) -> Option<Frame> {
        let (node, device) = frame.dir.stat(name).ok()?;
        let path = [frame.path.as_slice(), b"/", name].concat();
        let too_long =
            node.is_file() && self.options.exclude_larger_than.is_some_and(|most| node.size > most);
        if too_long || self.options.exclude.matches(&path, node.is_dir()) {
            return None;
        }
        self.totals.entries += 1;
        if node.is_file() {
            self.totals.bytes += node.size;
        }
        let limit = frame.device.or_else(|| self.options.one_file_system.then_some(device));
        if !node.is_dir() || limit.is_some_and(|limit| limit != device) {
            return None;
        }
        let dir = frame.dir.open_dir(name).ok()?;
        let names = dir.names().unwrap_or_default();
        Some(Frame { dir, path, names, device: limit })
    }
}
