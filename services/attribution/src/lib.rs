//! attribution-service
