//! Writing to standard output and standard error, neither of which may panic.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

/// Standard output, buffered; flush it at the end.
pub type Out = BufWriter<Stdout>;

pub fn out() -> Out {
    BufWriter::new(Stdout(io::stdout().lock()))
}

/// Says in its errors what could not be written to.
pub struct Stdout(StdoutLock<'static>);

fn name_it(e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("can't write to standard output: {e}"))
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(name_it)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(name_it)
    }
}

/// Writes one value as a line of JSON.
pub fn json_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// The whole answer of a command as JSON.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut out = out();
    json_line(&mut out, value)?;
    out.flush()
}

/// The whole answer of a command as text.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = out();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A message on standard error, in the program's name, and where a service that nobody can see
/// says such things.
pub fn complain(message: &str) {
    let message = tidy(message);
    let _ = io::stderr().lock().write_all(format!("tresor: {message}\n").as_bytes());
    tresor_platform::service::report(&message);
}

/// Without the numbers of errors, which tell people nothing.
pub fn tidy(message: &str) -> String {
    let mut rest = message;
    let mut text = String::with_capacity(message.len());
    while let Some((before, after)) = rest.split_once(" (os error ") {
        text.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        rest = rest.strip_prefix(')').unwrap_or(rest);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::tidy;

    #[test]
    fn numbers_of_errors_are_left_out() {
        assert_eq!(tidy("a: Permission denied (os error 13)"), "a: Permission denied");
        assert_eq!(tidy("x (os error 2): y (os error 3) z"), "x: y z");
        assert_eq!(tidy("nothing (here)"), "nothing (here)");
    }
}
