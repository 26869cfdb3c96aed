//! The rows of a CSV file, none longer than may be: a quote that is not closed would swallow the rest of the file.

use std::io::{self, Read};

/// The bytes of a row. A little more is let through, at most what the reader buffers.
pub(crate) const ROW_BYTES_MAX: usize = 1024 * 1024;

/// What [`csv::Reader`] reads at once.
const BUFFER_BYTES: usize = 8 * 1024;

/// Rows one after the other, with their positions.
pub(crate) struct Rows<R> {
    reader: csv::Reader<Bounded<R>>,
}

struct Bounded<R> {
    inner: R,
    left: usize,
}

// === impl Rows ===

impl<R: Read> Rows<R> {
    pub(crate) fn new(reader: R) -> Self {
        let bounded = Bounded { inner: reader, left: ROW_BYTES_MAX };
        Self { reader: csv::ReaderBuilder::new().buffer_capacity(BUFFER_BYTES).from_reader(bounded) }
    }

    /// The names of the columns, trimmed.
    ///
    /// # Errors
    /// The first line cannot be read.
    pub(crate) fn names(&mut self) -> csv::Result<Vec<String>> {
        Ok(self.reader.headers()?.iter().map(|name| name.trim().to_owned()).collect())
    }
}

impl<R: Read> Iterator for Rows<R> {
    type Item = csv::Result<csv::StringRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.get_mut().left = ROW_BYTES_MAX;
        let line = self.reader.position().line();
        let mut row = csv::StringRecord::new();
        match self.reader.read_record(&mut row) {
            Ok(true) => Some(Ok(row)),
            Ok(false) => None,
            Err(error) => Some(Err(match error.kind() {
                csv::ErrorKind::Io(error) => {
                    io::Error::new(error.kind(), format!("line {line}: {error}")).into()
                }
                _ => error,
            })),
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        if self.left == 0 && bytes > 0 {
            let reason = format!("a row is longer than {ROW_BYTES_MAX} bytes; is a quote not closed?");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        self.left = self.left.saturating_sub(bytes);
        Ok(bytes)
    }
}
