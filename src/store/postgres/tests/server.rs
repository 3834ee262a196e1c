//! The server of the tests: started once, reached through a socket in a temporary folder, gone with the tests.
#![allow(dead_code, reason = "the unit tests and the black-box tests each use a part")]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Makes a database in a temporary folder, starts the server, and prints the folder, which has the socket too. Ends
/// the server and deletes the folder once its standard input ends: when the tests end, however they end.
const SCRIPT: &str = r#"
set -eu
bin=${1:-$(dirname "$(command -v initdb)")}
umask 077
cd /
folder=$(mktemp -d "${TMPDIR:-/tmp}/segment-loops-postgres.XXXXXX")
trap '"$bin/pg_ctl" -D "$folder/data" -m immediate -s stop || true; rm -rf "$folder"' EXIT
exec 2>"$folder/log"
"$bin/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 --no-locale --no-sync >&2
case "$2" in *ssl=on*)
    new="openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    $new -subj /CN=ca -keyout "$folder/ca.key" -out "$folder/ca.crt"
    $new -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -subj /CN=localhost -addext basicConstraints=critical,CA:FALSE \
        -addext subjectAltName=DNS:localhost -keyout "$folder/data/server.key" -out "$folder/data/server.crt"
esac
cat >>"$folder/data/postgresql.conf" <<END
unix_socket_directories = '$folder'
listen_addresses = '127.0.0.1'
port = $3
max_connections = 400
$2
END
"$bin/pg_ctl" -D "$folder/data" -l "$folder/log" -s -w start >&2
echo "$folder"
cat >/dev/null
"#;

/// A server. It ends when this is dropped, or with the tests.
pub(super) struct Server {
    /// Holds the standard input of the script.
    _script: Child,
    folder: PathBuf,
    port: u16,
}

/// The server that the tests share.
pub(super) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start("fsync=on"))
}

impl Server {
    /// Starts a server with a setting.
    pub(super) fn start(setting: &str) -> Self {
        // Free a moment ago, and used for nothing else than this.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (_script, folder) = start(setting, port);
        Self { _script, folder, port }
    }

    /// The URL of its database.
    pub(super) fn url(&self) -> String {
        let host = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{host}:{}/postgres", self.port)
    }

    /// The port at which it listens on 127.0.0.1.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Stops or starts the server, by the arguments of `pg_ctl`.
    pub(super) fn control(&self, arguments: &str) {
        let mut control = command(programs().unwrap_or_default().join("pg_ctl"));
        control.args(["-s", "-w", "-D"]).arg(self.folder.join("data"));
        control.arg("-l").arg(self.folder.join("log")).args(arguments.split(' '));
        assert!(control.stdout(Stdio::null()).status().unwrap().success(), "pg_ctl {arguments}");
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A program that runs as a user that the server accepts: it refuses to run as root.
fn command(program: impl AsRef<OsStr>) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
    command
}

fn start(setting: &str, port: u16) -> (Child, PathBuf) {
    let bin = programs().unwrap_or_default();
    let mut command = command("sh");
    command.args(["-c", SCRIPT, "sh"]).arg(&bin).arg(setting).arg(port.to_string());
    // A signal from the terminal is for the tests; the server ends after them.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh, or runuser as root, starts the database of the tests");
    let mut folder = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut folder).unwrap();
    assert!(
        !folder.is_empty(),
        "the database of the tests did not start: is PostgreSQL installed? (Debian: postgresql)"
    );
    (child, folder.trim_end().into())
}

/// The folder of the server's programs: the newest of Debian's; `None`: where the search path finds them.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let version = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok())
    };
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(version)?;
    Some(newest.join("bin"))
}
