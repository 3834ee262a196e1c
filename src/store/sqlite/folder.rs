//! The configured data folder, and the database file in it.

use std::fs::{DirBuilder, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::OpenError;
use super::network::folder_of;
use super::open;
use super::options::SqliteOptions;
use super::store::SqliteStore;
use crate::config::StoreConfig;
use crate::store::schema::Schema;

/// The name of the database file.
const FILE: &str = "segment-loops.db";

fn file(config: &StoreConfig) -> PathBuf {
    file_in(&config.data)
}

/// Returns the path of the database file in a data folder.
pub(super) fn file_in(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Whether the configured data folder has a database.
pub(in crate::store) fn exists(config: &StoreConfig) -> bool {
    file(config).exists()
}

/// Opens the database in the configured data folder, and creates both if they are missing.
pub(in crate::store) async fn open(config: &StoreConfig) -> Result<SqliteStore, OpenError> {
    make(config)?;
    warn_if_open_to_others(&config.data);
    SqliteStore::open(options(config)).await
}

/// Compares the schema in the configured data folder with that of this program.
pub(in crate::store) fn schema(config: &StoreConfig) -> Result<Schema, OpenError> {
    if !exists(config) {
        return Ok(Schema::Missing);
    }
    open::schema(&options(config))
}

/// Creates the configured data folder unless it exists.
pub(super) fn make(config: &StoreConfig) -> Result<(), OpenError> {
    let folder = &config.data;
    create(folder)
        .map_err(|source| OpenError::NoDataFolder { folder: folder.display().to_string(), source })
}

/// Warns if users outside the folder's group have access to it. The folder stays as it is, since it may be shared on
/// purpose, such as with a backup program.
fn warn_if_open_to_others(folder: &Path) {
    if let Some(mode) = mode_for_others(folder) {
        tracing::warn!(
            folder = %folder.display(),
            mode,
            "other users of this machine have access to the data folder: run `chmod o-rwx` on it, unless that is intended"
        );
    }
}

/// Returns the mode of a folder in octal, if others have access to it.
#[cfg(unix)]
fn mode_for_others(folder: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(folder).ok()?.permissions().mode() & 0o7777;
    (mode & 0o007 != 0).then(|| format!("{mode:04o}"))
}

#[cfg(not(unix))]
fn mode_for_others(_folder: &Path) -> Option<String> {
    None
}

/// Creates a folder and its missing parents, for their owner only, so that they survive a power cut. Folders that exist
/// stay as they are.
fn create(folder: &Path) -> std::io::Result<()> {
    let changed = changed_by_creating(folder);
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    for parent in changed {
        // Only Unix can open a folder to sync it. Elsewhere, SQLite does without the sync, too.
        if cfg!(unix)
            && let Err(error) = File::open(&parent).and_then(|parent| parent.sync_all())
        {
            tracing::warn!(%error, folder = %parent.display(), "could not sync a folder to the disk");
        }
    }
    Ok(())
}

/// Returns the folders that get a new entry when a folder is created.
fn changed_by_creating(folder: &Path) -> Vec<PathBuf> {
    let missing =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    missing.map(|path| folder_of(path).to_owned()).collect()
}

/// Returns the options of the database in the configured data folder.
pub(super) fn options(config: &StoreConfig) -> SqliteOptions {
    SqliteOptions {
        wal: config.wal,
        allow_network_disk: config.allow_network_disk,
        duplicate_window: hours(config.duplicate_window_h),
        waiting_messages_max: config.waiting_messages_max,
        waiting_bytes_max: config.waiting_bytes_max,
        backlog_messages_max: config.backlog_messages_max,
        backlog_bytes_max: config.backlog_bytes_max,
        free_bytes_min: config.free_bytes_min,
        delivered_retention: hours(config.delivered_retention_h),
        failed_retention: hours(config.failed_retention_h),
        records_retention: hours(config.records_retention_h),
        ..SqliteOptions::new(file(config))
    }
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours.saturating_mul(3_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_that_gets_an_entry_is_synced() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let nested = root.join("a/b");
        assert_eq!(changed_by_creating(&nested), [root.join("a"), root.to_owned()]);
        create(&nested).unwrap();
        assert!(changed_by_creating(&nested).is_empty());
        create(&nested).unwrap();
        assert_eq!(changed_by_creating(Path::new("no-such-folder")), [PathBuf::from(".")]);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_made_for_its_owner_only() {
        use std::fs::Permissions;
        use std::os::unix::fs::PermissionsExt as _;

        let root = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (above, folder) = (root.path().join("a"), root.path().join("a/b"));
        create(&folder).unwrap();
        assert_eq!((mode(&above), mode(&folder)), (0o700, 0o700));
        // An existing folder keeps the mode that its owner gave it.
        std::fs::set_permissions(&folder, Permissions::from_mode(0o750)).unwrap();
        create(&folder).unwrap();
        assert_eq!(mode(&folder), 0o750);
    }
}
