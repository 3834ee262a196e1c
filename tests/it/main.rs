//! Black-box tests: the program itself, over HTTP and the command line, with a scripted Loops. Each file tests one
//! promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test that cannot go on shall say so and fail"
)]

mod support;

mod admin_address;
mod alerts;
mod ambiguous;
mod as_meant;
mod as_sdks_send;
mod audit;
mod authentication;
#[cfg(target_os = "linux")]
mod backup;
mod broken_records;
mod browser_sources;
mod catalogue;
mod checking;
#[cfg(target_os = "linux")]
mod clocks;
mod command_line;
mod commands;
mod compare;
mod configuration;
mod consent;
mod console;
mod contacts;
mod corpus;
mod crashing;
mod damaged_batches;
mod delivery_order;
mod described;
mod disk;
mod documents;
mod drift;
mod durability;
mod erasure;
mod feedback;
mod golden;
mod greedy_connections;
mod guessing;
mod harmless;
mod hostile_input;
mod import;
mod lenient_http;
mod limits;
mod lists;
#[cfg(target_os = "linux")]
mod memory;
mod merging;
mod message_page;
#[cfg(unix)]
mod moving;
mod neighbours;
mod network_disk;
mod new_contacts;
mod now;
mod odd_http;
mod outcomes;
mod paths;
mod people;
#[cfg(unix)]
mod postgres;
mod rate;
mod rejected;
mod replay;
mod replay_page;
mod secrets;
mod seen;
mod shadow;
mod slow_store;
mod stop;
mod stored_bytes;
mod subscription_destination;
#[cfg(target_os = "linux")]
mod supervised;
mod tail;
mod tidy;
#[cfg(feature = "otel")]
mod toolchain;
mod traces;
mod two_processes;
mod wire;
