//! Takes events in.

pub mod encode;
pub mod event;
pub mod parse;
pub mod validate;

mod iso;
mod json;
mod time;
