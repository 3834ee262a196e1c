//! The real SDKs, unchanged but for their host, against the running program: every call arrives once.
//!
//! And what stands at the other end: Loops' published contract, and Loops' own SDK.
//!
//! They are installed by `tests/run`: without them these tests fail, and say so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot go on shall say so and fail"
)]

mod browser;
mod calls;
mod console;
mod described_api;
mod front;
mod loops_contract;
mod room;
mod script;
mod server_sdks;
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the other black-box tests, which use the rest"
)]
#[path = "../it/support/mod.rs"]
mod support;
mod webhook_destination;
