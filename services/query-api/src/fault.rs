//! What is wrong with a request, field by field, until it becomes one error.

use service::Error;

/// The most fields that one error names; a request of nothing but mistakes is not answered with a megabyte of them.
pub(crate) const FAULTS_MAX: usize = 16;

/// Collects the fields that are wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<(String, String)>);

impl Faults {
    /// One fault as an error.
    pub(crate) fn one(field: impl Into<String>, reason: impl Into<String>) -> Error {
        let mut faults = Self::default();
        faults.add(field, reason);
        faults.into_error()
    }

    /// Adds a field and what is wrong with it, unless there are [`FAULTS_MAX`] already.
    pub(crate) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        if self.0.len() < FAULTS_MAX {
            self.0.push((field.into(), reason.into()));
        }
    }

    /// How many there are so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Keeps the value, or notes what is wrong with the field.
    pub(crate) fn keep<T>(&mut self, field: &str, result: Result<T, impl ToString>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(reason) => {
                self.add(field, reason.to_string());
                None
            }
        }
    }

    /// The value if nothing is wrong.
    ///
    /// # Errors
    /// Invalid, naming every field.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Error> {
        if self.0.is_empty() { Ok(value) } else { Err(self.into_error()) }
    }

    fn into_error(self) -> Error {
        let detail = match self.0.as_slice() {
            [] => "the request is not valid".to_owned(),
            [(field, reason)] => format!("{field}: {reason}"),
            [(field, reason), rest @ ..] => {
                let more = rest.len();
                format!("{field}: {reason} (and {more} more, see errors)")
            }
        };
        let error = Error::invalid(detail);
        self.0.into_iter().fold(error, |error, (field, reason)| error.field(field, reason))
    }
}
