//! The URL that names a log: scheme, path and parameters, nothing unknown.

use crate::LogError;

/// A parsed URL whose parameters are taken one by one; what is left at the end is unknown, and an error.
pub(crate) struct LogUrl {
    pub(crate) scheme: String,
    pub(crate) path: String,
    params: Vec<(String, String)>,
}

impl LogUrl {
    pub(crate) fn parse(url: &str) -> Result<Self, LogError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| LogError::Url(format!("write memory:// or file:///folder, not {url:?}")))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut params: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| LogError::Url(format!("write name=value, not {pair:?}")))?;
            if params.iter().any(|(known, _)| known == name) {
                return Err(LogError::Url(format!("give {name} once")));
            }
            params.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self { scheme: scheme.to_owned(), path: percent_decoded(path)?, params })
    }

    /// Takes a whole number within the bounds, both included.
    pub(crate) fn number(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, LogError> {
        let Some(at) = self.params.iter().position(|(known, _)| known == name) else {
            return Ok(None);
        };
        let (_, value) = self.params.swap_remove(at);
        match value.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => {
                Err(LogError::Url(format!("{name} is a whole number from {least} to {most}, not {value:?}")))
            }
        }
    }

    /// Takes a text, percent-decoded.
    #[cfg(feature = "kafka")]
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, LogError> {
        let Some(at) = self.params.iter().position(|(known, _)| known == name) else {
            return Ok(None);
        };
        percent_decoded(&self.params.swap_remove(at).1).map(Some)
    }

    /// Takes one of a few words.
    #[cfg(feature = "kafka")]
    pub(crate) fn choice(&mut self, name: &str, words: &[&str]) -> Result<Option<String>, LogError> {
        match self.text(name)? {
            Some(word) if !words.contains(&word.as_str()) => {
                Err(LogError::Url(format!("{name} is {}, not {word:?}", words.join(" or "))))
            }
            word => Ok(word),
        }
    }

    /// Every parameter must have been taken.
    pub(crate) fn finish(self, known: &str) -> Result<(), LogError> {
        match self.params.first() {
            None => Ok(()),
            Some((name, _)) => {
                Err(LogError::Url(format!("{}:// has no parameter {name}; it has {known}", self.scheme)))
            }
        }
    }
}

fn percent_decoded(path: &str) -> Result<String, LogError> {
    let wrong = || LogError::Url(format!("write % followed by two hexadecimal digits in {path:?}"));
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}
