//! shapley
