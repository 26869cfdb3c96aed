//! journey-store
