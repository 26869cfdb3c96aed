//! What is known of output formats: which may be fetched in chunks, and their content types.

/// How the chunks of a streamed result join to the bytes of the whole result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joining {
    /// The chunks, one after the other.
    Plain,
    /// Every chunk repeats a header of column names and types, in `RowBinary`.
    BinaryHeader,
    /// Every chunk stands for itself, so the result must be made in one piece.
    Never,
}

/// How chunks of `format` join.
pub(crate) fn joining(format: &str) -> Joining {
    match format.to_ascii_lowercase().as_str() {
        "rowbinary" | "native" | "tabseparated" | "tsv" | "tabseparatedraw" | "tsvraw" | "raw" | "csv"
        | "jsoneachrow" | "jsonlines" | "ndjson" | "jsonstringseachrow" | "jsoncompacteachrow"
        | "msgpack" => Joining::Plain,
        "rowbinarywithnamesandtypes" => Joining::BinaryHeader,
        _ => Joining::Never,
    }
}

/// The content type a ClickHouse server answers with.
pub(crate) fn content_type(format: &str) -> &'static str {
    let format = format.to_ascii_lowercase();
    match format.as_str() {
        "jsoneachrow" | "jsonlines" | "ndjson" => "application/x-ndjson; charset=UTF-8",
        _ if format.starts_with("json") => "application/json; charset=UTF-8",
        _ if format.starts_with("csv") => "text/csv; charset=UTF-8",
        _ if format.starts_with("tabseparated") || format.starts_with("tsv") => {
            "text/tab-separated-values; charset=UTF-8"
        }
        _ if format.starts_with("pretty") || format == "vertical" => "text/plain; charset=UTF-8",
        "xml" => "application/xml; charset=UTF-8",
        "markdown" => "text/markdown; charset=UTF-8",
        _ => "application/octet-stream",
    }
}

/// The length of the names and types at the start of `RowBinaryWithNamesAndTypes` data; `None`
/// when they do not end within it.
pub(crate) fn binary_header_bytes(chunk: &[u8]) -> Option<usize> {
    let mut at = 0;
    let columns = varint(chunk, &mut at)?;
    for _ in 0..columns.checked_mul(2)? {
        let length = usize::try_from(varint(chunk, &mut at)?).ok()?;
        at = at.checked_add(length).filter(|end| *end <= chunk.len())?;
    }
    Some(at)
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_header_is_measured_and_never_overrun() {
        let chunk = b"\x02\x01a\x02bc\x05UInt8\x06Stringrows";
        assert_eq!(binary_header_bytes(chunk), Some(chunk.len() - 4));
        for cut in 0..chunk.len() - 4 {
            assert_eq!(binary_header_bytes(&chunk[..cut]), None, "{cut}");
        }
        assert_eq!(binary_header_bytes(&[0xff; 40]), None);
    }
}
