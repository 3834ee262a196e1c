//! Damage to the files while the store has them open. Nothing is acknowledged that another process, or this one after a
//! crash, would not find.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::files::Files;
use super::super::health::Health;
use super::*;

mod database;
mod log;
mod overwritten;

const NAMES: [&str; 2] = ["-wal", "-shm"];

fn path(folder: &TempDir, suffix: &str) -> PathBuf {
    folder.path().join(format!("queue.db{suffix}"))
}

/// Opens another store on the files as a crash of the machine would leave them.
async fn after_a_crash(folder: &TempDir) -> (SqliteStore, TempDir) {
    let copy = TempDir::new().unwrap();
    for suffix in ["", "-wal"] {
        let from = path(folder, suffix);
        if from.exists() {
            std::fs::copy(from, path(&copy, suffix)).unwrap();
        }
    }
    (SqliteStore::open(options(&copy)).await.unwrap(), copy)
}

async fn assert_stored(store: &SqliteStore, ids: &[String]) {
    for id in ids {
        let found = store.by_message_id(message(id).message_hash, id).await.unwrap();
        assert_eq!(found.len(), 1, "{id}");
    }
}

/// Accepts enough messages for a log of many frames; returns their ids.
async fn accept_some(store: &SqliteStore) -> Vec<String> {
    let ids: Vec<String> = (0..40).map(|n| format!("before{n}")).collect();
    for id in &ids {
        put(store, message(id)).await;
    }
    ids
}

/// Fails unless the store, and another one after a crash, have these messages.
async fn assert_kept(store: &SqliteStore, folder: &TempDir, acknowledged: &[String]) {
    let (crashed, _copy) = after_a_crash(folder).await;
    assert_stored(&crashed, acknowledged).await;
    assert_stored(store, acknowledged).await;
}

/// Overwrites bytes of the log, as another program might.
fn overwrite_log(folder: &TempDir, at: usize, bytes: usize) {
    let log = OpenOptions::new().write(true).open(path(folder, "-wal")).unwrap();
    log.write_all_at(&vec![0xff; bytes], at as u64).unwrap();
}

/// Cuts the log, as another program might.
fn cut_log(folder: &TempDir, kept: u64) {
    let log = OpenOptions::new().write(true).open(path(folder, "-wal")).unwrap();
    log.set_len(kept).unwrap();
}

/// Empties the log. While the returned connection is open, later commits stay in the log: the connection reads the
/// database file, so SQLite moves nothing there. Otherwise the writer may move the log while idle, and then truncating
/// the log loses nothing.
fn keep_in_log(folder: &TempDir) -> Connection {
    assert!(open::empty_wal(&raw(folder)).unwrap());
    let reader = FileOptions::new(&options(folder)).open_reader().unwrap();
    execute(&reader, "BEGIN; SELECT 1 FROM messages");
    reader
}

/// Waits until the writer has checked the files and begun a group.
async fn until_writing(store: &SqliteStore) {
    let began = std::time::Instant::now();
    while !store.health.is_writing() {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Tries to accept messages until one is acknowledged; returns its id.
async fn accept_until_one_is(store: &SqliteStore, name: &str) -> String {
    let began = std::time::Instant::now();
    for n in 0.. {
        let id = format!("{name}{n}");
        if store.accept(vec![message(&id)]).await.is_ok() {
            return id;
        }
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    unreachable!()
}

fn telemetry_chain(error: &(dyn std::error::Error + 'static)) -> String {
    crate::telemetry::chain(error).to_string()
}
