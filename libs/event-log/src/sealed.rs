//! Small files of one value each: magic, version, value, checksum; replaced at once or not at all.

use std::{io, path::Path};

use crate::{LogError, disk::Disk};

/// The version of every format here; a newer one is refused before a byte is written.
pub(crate) const VERSION: u32 = 1;

const HEAD: usize = 12;

/// What a small file holds.
pub(crate) enum Sealed {
    Missing,
    Damaged,
    Value(Vec<u8>),
}

/// The value between its magic and its checksum.
pub(crate) fn seal(magic: &[u8; 8], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + value.len() + 4);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The value if the checksum holds; an error if a newer version wrote it.
pub(crate) fn unseal(magic: &[u8; 8], bytes: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else { return Ok(None) };
    if body.len() < HEAD || body[..8] != magic[..] || crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Ok(None);
    }
    let version = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
    if version > VERSION {
        return Err(newer(version));
    }
    Ok(Some(body[HEAD..].to_vec()))
}

pub(crate) fn newer(version: u32) -> LogError {
    LogError::Corrupt(format!(
        "they have format {version}, this program knows formats up to {VERSION}: use the newer program that wrote them"
    ))
}

pub(crate) fn read(disk: &dyn Disk, path: &Path, magic: &[u8; 8]) -> Result<Sealed, LogError> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sealed::Missing),
        Err(error) => return Err(cannot("open", path, &error)),
    };
    let mut bytes = [0; 256];
    let read = file.read_at(&mut bytes, 0).map_err(|error| cannot("read", path, &error))?;
    Ok(unseal(magic, &bytes[..read])?.map_or(Sealed::Damaged, Sealed::Value))
}

/// Replaces the file durably.
pub(crate) fn write(disk: &dyn Disk, path: &Path, magic: &[u8; 8], value: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let file = disk.create(&temporary)?;
    file.write_at(&seal(magic, value), 0)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or_else(|| Path::new(".")))
}

pub(crate) fn cannot(verb: &str, path: &Path, error: &io::Error) -> LogError {
    LogError::Corrupt(format!("cannot {verb} {}: {error}", path.display()))
}
