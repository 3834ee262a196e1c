//! Detects a folder on a network disk, where SQLite is not reliable: its locks may not hold, and the shared
//! memory of its write-ahead log is not shared between machines. Acknowledged messages could be lost, and
//! the database damaged.
//!
//! The kernel reports the mount of each open file, so paths need not be compared with mount points, which may hide each
//! other. On systems other than Linux, nothing is detected and every disk is allowed.

use std::path::Path;

/// File systems that another machine (or the host of a virtual machine) serves, or that several
/// machines use at once. FUSE is judged by [`is_network`].
const NETWORK: [&str; 34] = [
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "cvfs",
    "davfs",
    "drvfs",
    "fakeowner",
    "gfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "mfs",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "osxfs",
    "panfs",
    "prl_fs",
    "pvfs2",
    "quobyte",
    "smb2",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
    "wekafs",
];

/// Returns the type of the file system that holds `database`, if it is a network disk. The file need not exist yet.
pub(super) fn network_disk(database: &Path) -> Option<String> {
    let mount_id = mount_id(database)?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let file_system = file_system(&mounts, &mount_id)?;
    is_network(file_system).then(|| file_system.to_owned())
}

/// Returns the kernel's number of the mount that holds the folder of a file. Links are followed, as SQLite does: the
/// write-ahead log is beside the file itself.
#[cfg(target_os = "linux")]
fn mount_id(database: &Path) -> Option<String> {
    use std::os::fd::AsRawFd as _;
    let target = std::fs::canonicalize(database);
    let folder = folder_of(target.as_deref().unwrap_or(database));
    // Open the folder, not the file: closing the file would drop this process's locks on it.
    let folder = std::fs::File::open(folder).ok()?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", folder.as_raw_fd())).ok()?;
    let mount_id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    Some(mount_id.trim().to_owned())
}

#[cfg(not(target_os = "linux"))]
fn mount_id(_: &Path) -> Option<String> {
    None
}

/// Returns the type of a mount's file system: the first field after the ` - ` in its line.
fn file_system<'a>(mounts: &'a str, mount_id: &str) -> Option<&'a str> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount_id))?;
    line.split_once(" - ")?.1.split(' ').next()
}

/// Whether a type of file system is served over a network. A FUSE file system can be anything, so only types known to
/// be local are allowed.
fn is_network(file_system: &str) -> bool {
    match file_system.split_once('.') {
        // The root file system of an unprivileged container.
        Some(("fuse", of)) => of != "fuse-overlayfs",
        // Local block devices have the type `fuseblk`.
        _ => file_system == "fuse" || NETWORK.contains(&file_system),
    }
}

/// Returns the folder of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw,relatime shared:5 - proc proc rw
30 22 0:40 / /srv/data\\040of\\040all rw,relatime shared:7 master:2 propagate_from:1 - nfs4 10.0.0.9:/export rw,vers=4.2,addr=10.0.0.9
31 30 254:0 /vol\\040-\\040one /srv/data\\040of\\040all/db rw - xfs /dev/vdb rw
310 22 0:41 / /mnt/bucket rw,nosuid,nodev - fuse.rclone remote: rw,user_id=0,group_id=0
32 22 0:42 / /mnt/c rw,noatime - 9p C:\\134 rw,aname=drvfs";

    #[test]
    fn the_file_system_is_that_of_the_mount() {
        for (mount_id, expected) in [
            ("22", Some("ext4")),
            ("30", Some("nfs4")),
            ("31", Some("xfs")),
            ("310", Some("fuse.rclone")),
            ("32", Some("9p")),
            ("3", None),
            ("", None),
        ] {
            assert_eq!(file_system(MOUNTS, mount_id), expected, "{mount_id}");
        }
        assert_eq!(file_system("22 1 254:0 / / rw", "22"), None);
    }

    #[test]
    fn what_is_served_over_a_network_is_told_from_what_is_local() {
        let network = [
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "9p",
            "ceph",
            "lustre",
            "fuse",
            "fuse.sshfs",
            "fuse.s3fs",
            "fuse.gcsfuse",
            "fuse.rclone",
            "fuse.glusterfs",
            "fuse.ceph-fuse",
            "fuse.juicefs",
            "fuse.grpcfuse",
            "fakeowner",
            "virtiofs",
            "vboxsf",
            "gfs2",
        ];
        let local = [
            "ext4",
            "xfs",
            "btrfs",
            "zfs",
            "tmpfs",
            "overlay",
            "f2fs",
            "bcachefs",
            "fuseblk",
            "fuse.fuse-overlayfs",
            "apfs",
            "nfsd",
            "",
            "ntfs3",
            "exfat",
            "vfat",
            "squashfs",
        ];
        for file_system in network {
            assert!(is_network(file_system), "{file_system}");
        }
        for file_system in local {
            assert!(!is_network(file_system), "{file_system}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_names_the_mount_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.db");
        let database = folder.path().join("a.db");
        std::fs::write(&database, "").unwrap();
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink(&database, &link).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for path in [&missing, &database, &link] {
            assert!(file_system(&mounts, &mount_id(path).unwrap()).is_some());
        }
        assert_eq!(mount_id(&folder.path().join("no/such.db")), None);
        // A link counts as what it points to.
        let elsewhere = folder.path().join("status");
        std::os::unix::fs::symlink("/proc/self/status", &elsewhere).unwrap();
        assert_eq!(file_system(&mounts, &mount_id(&elsewhere).unwrap()), Some("proc"));
    }
}
