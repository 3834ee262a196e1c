//! The server of the tests. It is started once, is reached through a socket in a temporary folder, and ends with the
//! tests.
#![allow(dead_code, reason = "the unit tests and the black-box tests each use a part")]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Makes a database in a temporary folder, or copies that of a primary. Starts the server and prints the folder, which
/// also has the socket. Ends the server and deletes the folder once its standard input ends, which happens when the
/// tests end, however they end.
const SCRIPT: &str = r#"
set -eu
bin=${1:-$(dirname "$(command -v initdb)")}
umask 077
cd /
folder=$(mktemp -d "${TMPDIR:-/tmp}/segment-loops-postgres.XXXXXX")
trap '"$bin/pg_ctl" -D "$folder/data" -m immediate -s stop || true; rm -rf "$folder"' EXIT
exec 2>"$folder/log"
if [ -n "$4" ]; then
    "$bin/pg_basebackup" --pgdata="$folder/data" --write-recovery-conf --checkpoint=fast --dbname="$4" >&2
else
    "$bin/initdb" --pgdata="$folder/data" --username=postgres --auth=trust --encoding=UTF8 --no-locale --no-sync >&2
fi
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

/// Starts PgBouncer in transaction mode in front of the server at a host and a port. Otherwise like [`SCRIPT`].
const POOLER: &str = r#"
set -eu
PATH=$PATH:/usr/sbin
umask 077
cd /
folder=$(mktemp -d "${TMPDIR:-/tmp}/segment-loops-pgbouncer.XXXXXX")
trap 'kill "$pooler" || true; rm -rf "$folder"' EXIT
exec 2>"$folder/log"
echo '"postgres" ""' >"$folder/users"
cat >"$folder/pgbouncer.ini" <<END
[databases]
* = host=$1 port=$2
[pgbouncer]
pool_mode = transaction
auth_type = trust
auth_file = $folder/users
admin_users = postgres
unix_socket_dir = $folder
listen_addr = 127.0.0.1
listen_port = $3
max_client_conn = 1000
default_pool_size = 40
END
pgbouncer "$folder/pgbouncer.ini" >&2 &
pooler=$!
until [ -e "$folder/.s.PGSQL.$3" ]; do kill -0 "$pooler"; sleep 0.02; done
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

/// PgBouncer in front of a server. It ends when this is dropped, or with the tests.
pub(super) struct Pooler {
    /// Holds the standard input of the script.
    _script: Child,
    folder: PathBuf,
    port: u16,
}

/// Returns the server that the tests share.
pub(super) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start("fsync=on"))
}

impl Server {
    /// Starts a server with a setting.
    pub(super) fn start(setting: &str) -> Self {
        Self::start_as(setting, "")
    }

    /// Starts a standby of this server, under the name `standby`.
    pub(super) fn standby(&self) -> Self {
        let (folder, port) = (self.folder.display(), self.port);
        let primary = format!("host={folder} port={port} user=postgres application_name=standby");
        Self::start_as("hot_standby=on", &primary)
    }

    fn start_as(setting: &str, primary: &str) -> Self {
        let (port, bin) = (free_port(), programs().unwrap_or_default());
        let of_server = port.to_string();
        let arguments = [bin.as_os_str(), setting.as_ref(), of_server.as_ref(), primary.as_ref()];
        let (_script, folder) = start(SCRIPT, &arguments, "PostgreSQL", "postgresql");
        Self { _script, folder, port }
    }

    /// Changes a setting while the server runs.
    pub(super) fn set(&self, setting: &str) {
        let file =
            std::fs::OpenOptions::new().append(true).open(self.folder.join("data/postgresql.conf"));
        writeln!(file.unwrap(), "{setting}").unwrap();
        self.control("reload");
    }

    /// Returns the URL of its database.
    pub(super) fn url(&self) -> String {
        url(&self.folder, self.port, "postgres")
    }

    /// Returns the port on which it listens at 127.0.0.1.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Stops or starts the server, by the arguments of `pg_ctl`.
    pub(super) fn control(&self, arguments: &str) {
        let mut control = command(programs().unwrap_or_default().join("pg_ctl"));
        control.args(["-s", "-D"]).arg(self.folder.join("data"));
        control.arg("-l").arg(self.folder.join("log")).args(arguments.split(' '));
        assert!(control.stdout(Stdio::null()).status().unwrap().success(), "pg_ctl {arguments}");
    }

    /// Returns its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Returns the PgBouncer in front of the shared server.
pub(super) fn pooler() -> &'static Pooler {
    static POOLER: OnceLock<Pooler> = OnceLock::new();
    POOLER.get_or_init(|| Pooler::start(server()))
}

impl Pooler {
    fn start(server: &Server) -> Self {
        let port = free_port();
        let (of_server, of_pooler) = (server.port.to_string(), port.to_string());
        let arguments = [server.folder.as_os_str(), of_server.as_ref(), of_pooler.as_ref()];
        let (_script, folder) = start(POOLER, &arguments, "PgBouncer", "pgbouncer");
        Self { _script, folder, port }
    }

    /// Returns the URL of the server's database through the pooler.
    pub(super) fn url(&self) -> String {
        url(&self.folder, self.port, "postgres")
    }

    /// Returns the URL of its console.
    pub(super) fn console(&self) -> String {
        url(&self.folder, self.port, "pgbouncer")
    }
}

/// Returns a command that runs as an unprivileged user, since the server refuses to run as root.
fn command(program: impl AsRef<OsStr>) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
    command
}

/// Starts a script that prints its folder once it is ready; `package` is Debian's.
fn start(script: &str, arguments: &[&OsStr], program: &str, package: &str) -> (Child, PathBuf) {
    let mut command = command("sh");
    command.args(["-c", script, "sh"]).args(arguments);
    // A signal from the terminal is for the tests; the server ends after them.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh, or runuser as root, starts the database of the tests");
    let mut folder = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut folder).unwrap();
    assert!(!folder.is_empty(), "{program} did not start: is it installed? (Debian: {package})");
    (child, folder.trim_end().into())
}

/// Returns a port that was free a moment ago and that is used for nothing else.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Returns the URL of a database behind a socket in a folder.
fn url(folder: &Path, port: u16, database: &str) -> String {
    let host = folder.display().to_string().replace('/', "%2F");
    format!("postgres://postgres@{host}:{port}/{database}")
}

/// Returns the folder of the server's programs, the newest of Debian's; `None` to use the search path.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let version = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok())
    };
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(version)?;
    Some(newest.join("bin"))
}
