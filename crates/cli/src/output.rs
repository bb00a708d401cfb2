//! Results on standard output. A reader that has seen enough (`| head`) is no error.

use std::io::{ErrorKind, Write};

/// Prints a text and a line break, whole.
///
/// # Errors
/// When it cannot be written, except to a reader that is gone.
pub(crate) fn line(text: &str) -> std::io::Result<()> {
    offer(text).map(drop)
}

/// The same for one of many: false when the reader is gone, and there is no use in more.
///
/// # Errors
/// When it cannot be written, except to a reader that is gone.
pub(crate) fn offer(text: &str) -> std::io::Result<bool> {
    let mut out = std::io::stdout().lock();
    let text = format!("{}\n", text.trim_end_matches('\n'));
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}

/// Text with every control character spelled out: what others wrote must not reach the terminal as it is.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() {
                true => out.extend(c.escape_default()),
                false => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}
