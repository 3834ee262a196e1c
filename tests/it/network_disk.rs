//! The data folder must be on a local disk. The test mounts a FUSE file system, which needs root and `bindfs`. If
//! either is missing, it tests nothing and says so. Unit tests cover the other types of file systems.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::Setup;

/// A folder that is mounted with FUSE until it is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let [below, at] = ["below", "at"].map(|name| folder.path().join(name));
        for path in [&below, &at] {
            std::fs::create_dir(path).unwrap();
        }
        let mut command = Command::new("bindfs");
        let command = command.arg(below).arg(at).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success()).then_some(Self(folder))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("at")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Unmounted lazily, because the killed program may still be running.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn refusal(data: &Path) -> String {
    let (code, text) = Setup::with_loops("http://127.0.0.1:9/api/v1").data(data).run_to_end();
    assert_eq!(code, Some(1), "{text}");
    text
}

#[test]
fn a_data_folder_on_a_network_disk_is_refused_unless_it_is_allowed() {
    let Some(mounted) = Mounted::new() else {
        eprintln!("nothing is tested: there is no bindfs, or it cannot mount here");
        return;
    };
    let data = mounted.path().join("data");
    let text = refusal(&data);
    for word in ["store.data", data.to_str().unwrap(), "(fuse", "store.allow_network_disk = true"] {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!data.join("segment-loops.db").exists());

    // A symbolic link does not hide the network disk.
    let local = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&data, local.path().join("data")).unwrap();
    assert!(refusal(&local.path().join("data")).contains("(fuse"));
    std::fs::write(data.join("segment-loops.db"), "").unwrap();
    let link = local.path().join("segment-loops.db");
    std::os::unix::fs::symlink(data.join("segment-loops.db"), link).unwrap();
    assert!(refusal(local.path()).contains("(fuse"));

    let setup = Setup::with_loops("http://127.0.0.1:9/api/v1").data(&data);
    let service = setup.env("SEGMENT_LOOPS__STORE__ALLOW_NETWORK_DISK", "true").start();
    let warned = |line: &serde_json::Value| {
        line["level"] == "WARN" && line["message"].as_str().unwrap_or("").contains("network disk")
    };
    assert!(service.log().iter().any(warned), "{:?}", service.log());
    drop(service);
    drop(mounted);
}
