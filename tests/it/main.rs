//! Black-box tests: the program itself, over HTTP and the command line, with a scripted Loops.
//! One file for each promise.

mod support;

mod authentication;
mod command_line;
mod configuration;
mod delivery_order;
mod durability;
mod hostile_input;
mod limits;
mod outcomes;
mod rate;
mod seen;
mod stop;
mod tidy;
mod wire;
