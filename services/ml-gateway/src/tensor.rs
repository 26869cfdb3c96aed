//! Tensors of the Open Inference Protocol: types, and their data as bytes and as typed lists.

use proto::inference::InferTensorContents;

pub(crate) const FP32: &str = "FP32";
pub(crate) const FP64: &str = "FP64";

/// Little-endian data as 32-bit floats.
///
/// # Errors
/// Another type than FP32 or FP64, or bytes that do not fit.
pub(crate) fn floats_of_bytes(datatype: &str, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let fits = |size| match bytes.len() % size {
        0 => Ok(()),
        _ => Err(format!("{} bytes are no whole number of {datatype}", bytes.len())),
    };
    match datatype {
        FP32 => {
            fits(4)?;
            Ok(bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
        }
        FP64 => {
            fits(8)?;
            Ok(bytes.as_chunks::<8>().0.iter().map(|chunk| f64::from_le_bytes(*chunk) as f32).collect())
        }
        _ => Err(wrong_type(datatype)),
    }
}

/// Typed data as 32-bit floats.
///
/// # Errors
/// Another type than FP32 or FP64.
pub(crate) fn floats_of_contents(
    datatype: &str,
    contents: Option<&InferTensorContents>,
) -> Result<Vec<f32>, String> {
    let contents = contents.ok_or("has no data")?;
    match datatype {
        FP32 => Ok(contents.fp32_contents.clone()),
        FP64 => Ok(contents.fp64_contents.iter().map(|&value| value as f32).collect()),
        _ => Err(wrong_type(datatype)),
    }
}

pub(crate) fn wrong_type(datatype: &str) -> String {
    format!("is of type {datatype}; {FP32} and {FP64} are taken")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn bytes_and_lists_hold_the_same_numbers() {
        let numbers = [0.5f32, -3.25, 1e30];
        let four: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let eight: Vec<u8> = numbers.iter().flat_map(|number| f64::from(*number).to_le_bytes()).collect();
        assert_eq!(floats_of_bytes(FP32, &four).unwrap(), numbers);
        assert_eq!(floats_of_bytes(FP64, &eight).unwrap(), numbers);
        let contents = InferTensorContents { fp32_contents: numbers.to_vec(), ..Default::default() };
        assert_eq!(floats_of_contents(FP32, Some(&contents)).unwrap(), numbers);
        assert!(floats_of_bytes(FP32, &four[1..]).is_err());
        assert!(floats_of_bytes("INT64", &eight).is_err());
        assert!(floats_of_contents(FP32, None).is_err());
    }
}
