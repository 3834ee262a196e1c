//! The command line: one file per command. It parses arguments, calls [`crate::app`] and prints for people.

mod alerts;
mod backup;
mod cases;
mod check;
mod command;
mod compare;
mod configuration;
mod database;
mod dev;
mod drift;
mod erase;
mod error;
mod eval;
mod exit;
mod healthcheck;
mod import;
mod input;
mod known;
mod manual;
mod migrate;
mod moving;
mod options;
mod output;
mod preview;
mod process;
mod replay;
mod restore;
mod sandbox;
mod serve;
mod supervisor;

pub use command::run;
