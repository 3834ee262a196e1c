//! The pages and the API for operators, behind the admin token.

pub mod api;
pub mod openapi;
pub mod preview;
mod replay;
