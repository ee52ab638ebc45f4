//! What launchd is told: a list of properties.

use std::path::Path;

use super::{Result, Service, ServiceError};

/// launchd's names have dots.
pub(super) const PREFIX: &str = "tresor.";

/// Started at once and with each session, and again if it fails, but not if somebody unmounts
/// the drive.
pub(super) fn properties(service: &Service, log: &Path) -> Result<String> {
    let text = |word: &std::ffi::OsStr| {
        let text = word.to_str().ok_or_else(|| ServiceError::NoText(word.display().to_string()))?;
        if text.chars().any(|c| c.is_control()) {
            return Err(ServiceError::NoText(format!("{text:?}")));
        }
        Ok(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
    };
    let mut words = String::new();
    for word in std::iter::once(service.program.as_os_str())
        .chain(service.arguments.iter().map(|word| word.as_os_str()))
    {
        words += &format!("    <string>{}</string>\n", text(word)?);
    }
    let (name, log) = (&service.name, text(log.as_os_str())?);
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <!-- Made by `tresor service install`; `tresor service remove` removes it. -->\n\
         <plist version=\"1.0\">\n<dict>\n  \
         <key>Label</key>\n  <string>{PREFIX}{name}</string>\n  \
         <key>ProgramArguments</key>\n  <array>\n{words}  </array>\n  \
         <key>RunAtLoad</key>\n  <true/>\n  \
         <key>KeepAlive</key>\n  <dict>\n    <key>SuccessfulExit</key>\n    <false/>\n  </dict>\n  \
         <key>ThrottleInterval</key>\n  <integer>30</integer>\n  \
         <key>ExitTimeOut</key>\n  <integer>60</integer>\n  \
         <key>StandardErrorPath</key>\n  <string>{log}</string>\n\
         </dict>\n</plist>\n"
    ))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Read as Python's library reads it.
    #[test]
    fn the_list_says_what_is_to_be_run() {
        let service = Service {
            name: "restore".into(),
            about: "a drive".into(),
            program: "/usr/local/bin/tresor".into(),
            arguments: ["mount", "--tag=<&>\"'", "/mnt/ä b"].map(Into::into).into(),
            needs: "/srv/repo".into(),
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, properties(&service, Path::new("/l&g")).unwrap()).unwrap();
        let read = "import plistlib, sys; p = plistlib.load(open(sys.argv[1], 'rb'))\n\
                    print(p['Label'], p['ProgramArguments'], p['RunAtLoad'], p['KeepAlive'], p['StandardErrorPath'])";
        let Ok(done) = Command::new("python3").args(["-c", read]).arg(file.path()).output() else {
            return eprintln!("skipped: this needs python3");
        };
        assert_eq!(
            String::from_utf8_lossy(&done.stdout),
            "tresor.restore ['/usr/local/bin/tresor', 'mount', '--tag=<&>\"\\'', '/mnt/ä b'] True \
             {'SuccessfulExit': False} /l&g\n",
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let wrong = Service { arguments: vec!["a\nb".into()], ..service };
        assert!(properties(&wrong, Path::new("/log")).is_err());
    }
}
