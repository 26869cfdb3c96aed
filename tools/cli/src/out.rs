//! Where words go: data to standard output, all else to standard error.

use std::{
    fmt::Display,
    io::{self, ErrorKind, IsTerminal, Write},
};

/// Writes data.
pub(crate) fn data(text: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()?;
    Ok(())
}

/// Writes a line of data.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    data(format!("{text}\n").as_bytes())
}

/// Tells the person at the terminal something.
pub(crate) fn note(text: impl Display) {
    // Nobody is left to hear that standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says what went wrong, with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    let word = if colours(&io::stderr()) { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    note(format!("{word} {error:#}"));
}

/// Whether the reader of the data closed it.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Whether data may be coloured.
pub(crate) fn data_colours() -> bool {
    colours(&io::stdout())
}

fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
