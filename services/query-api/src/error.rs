//! Failures of the stores as a caller sees them.

use journey_store::StoreError;
use service::Error;

/// What a journey store says. Reading may always be tried again, so there is no difference whether it happened.
pub(crate) fn store(error: StoreError) -> Error {
    match error {
        StoreError::Unavailable(_) | StoreError::Superseded | StoreError::Indeterminate(_) => {
            Error::unavailable("journeys cannot be read now; try again").source(error)
        }
        StoreError::Corrupt(_) | StoreError::Url(_) => Error::internal(error),
    }
}

/// What the warehouse says of a report.
pub(crate) fn warehouse(error: warehouse::Error) -> Error {
    use warehouse::Error as E;
    match error {
        E::Spec { field, reason } => Error::invalid(format!("{field}: {reason}")).field(field, reason),
        E::Unavailable(_) | E::Indeterminate(_) => {
            Error::unavailable("reports cannot be answered now, events are still taken; try again")
                .source(error)
        }
        E::Rejected(_) | E::Config(_) | E::Schema(_) => Error::internal(error),
    }
}
