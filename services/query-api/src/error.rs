//! Failures of the stores as a caller sees them.

use journey_store::StoreError;
use service::Error;

/// What a journey store says. Reading may always be tried again, so there is no difference whether it happened.
pub(crate) fn store(error: StoreError) -> Error {
    match error {
        StoreError::Unavailable(_) | StoreError::Indeterminate(_) => {
            Error::unavailable("journeys cannot be read now; try again").source(error)
        }
        StoreError::Corrupt(_) | StoreError::Url(_) => Error::internal(error),
    }
}
