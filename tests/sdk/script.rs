//! A script that uses an SDK, as a process of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::support::PATIENCE;

/// A running script, which reads and writes lines.
pub struct Script {
    process: Child,
    input: Option<ChildStdin>,
    lines: UnboundedReceiver<String>,
}

impl Script {
    /// Starts a script of this folder with Node.
    pub fn node(script: &str, arguments: &[&str]) -> Self {
        let packages = folder().join("node_modules");
        assert!(packages.exists(), "the SDKs for Node are missing: tests/run installs them");
        Self::start(Path::new("node"), script, arguments)
    }

    /// Starts a script of this folder with Python.
    pub fn python(script: &str, arguments: &[&str]) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let python = target.join("sdk-python/bin/python");
        assert!(python.exists(), "the SDKs for Python are missing: tests/run installs them");
        Self::start(&python, script, arguments)
    }

    /// Starts a script of this folder with Node and a browser, whose profile is in `profile`.
    pub fn browser(script: &str, profile: &Path) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path).map(|folder| folder.join("chromium"));
        let program = program.into_iter().find(|program| program.exists());
        let program = program.expect("Chromium is missing: tests/run installs it");
        Self::node(script, &[program.to_str().unwrap(), profile.to_str().unwrap()])
    }

    fn start(program: &Path, script: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.arg(folder().join(script)).args(arguments);
        // Nothing but the path: a proxy in the environment would take the SDK elsewhere.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| {
            panic!("{} cannot be started: {error}; tests/run installs it", program.display())
        });
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let input = process.stdin.take();
        Self { process, input, lines }
    }

    /// Writes a line to the script.
    pub fn tell(&mut self, line: &Value) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").expect("the script has ended");
    }

    /// The next line of the script.
    pub async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.recv()).await.expect("the script says nothing");
        line.expect("the script has failed: its error is above")
    }

    /// Lets the script end, which must be well.
    pub async fn end(mut self) {
        drop(self.input.take());
        let rest = timeout(PATIENCE, self.lines.recv()).await.expect("the script does not end");
        assert_eq!(rest, None);
        assert!(self.process.wait().unwrap().success());
    }

    /// Waits until the script ends by itself, since its SDK has given up.
    pub async fn give_up(mut self) {
        let rest = timeout(PATIENCE, self.lines.recv()).await.expect("the SDK does not give up");
        assert_eq!(rest, None);
        assert!(!self.process.wait().unwrap().success());
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk")
}
