//! Implements the queue's contract, a trait in each file: passes each call to a task or to a connection.

mod feedback;
mod housekeeping;
mod intake;
mod log;
mod new_contacts;
mod receipts;
mod replays;
mod work;
