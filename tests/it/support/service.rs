//! The program under test, as a separate process.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{ADMIN_TOKEN, API_KEY, EMAIL_DOMAIN, PATIENCE, WEBHOOK_SECRET, WRITE_KEY};

/// The settings with which the program is started.
#[derive(Clone)]
pub struct Setup {
    env: HashMap<String, String>,
    config: Option<String>,
    data: Option<PathBuf>,
    /// Another program, with its arguments, that starts the program.
    through: Vec<String>,
}

/// The name of the configuration file.
const CONFIG: &str = "segment-loops.toml";

/// The running program. Dropping it kills the process, and fails the test if the log contains a secret or an address.
pub struct Service {
    pub base_url: String,
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    data: PathBuf,
    folder: Arc<tempfile::TempDir>,
    http: reqwest::Client,
}

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A response of the program.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Setup {
    /// The setup of one team: three variables, an admin token, and retries that do not keep a test waiting.
    pub fn with_loops(base_url: &str) -> Self {
        let env = [
            ("LOOPS_API_KEY", API_KEY),
            ("LOOPS_BASE_URL", base_url),
            ("SEGMENT_WRITE_KEY", WRITE_KEY),
            ("SEGMENT_WEBHOOK_SECRET", WEBHOOK_SECRET),
            ("ADMIN_TOKEN", ADMIN_TOKEN),
            ("LOOPS_RATE_LIMIT", "1000"),
            ("SEGMENT_LOOPS__DELIVERY__RETRY_MIN_MS", "20"),
            ("SEGMENT_LOOPS__DELIVERY__RETRY_MAX_MS", "200"),
            ("SEGMENT_LOOPS__DELIVERY__LEASE_TTL_MS", "600"),
        ];
        let env =
            env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { env, config: None, data: None, through: Vec::new() }
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts the program with no admin token.
    pub fn start_without_admin_token(mut self) -> Service {
        self.env.remove("ADMIN_TOKEN");
        self.start()
    }

    /// Uses the program's default rate.
    pub fn without_rate(mut self) -> Self {
        self.env.remove("LOOPS_RATE_LIMIT");
        self
    }

    /// Removes all variables.
    pub fn without_env(mut self) -> Self {
        self.env.clear();
        self
    }

    /// Sets the text of the configuration file.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Uses this folder for the database.
    pub fn data(mut self, data: &Path) -> Self {
        self.data = Some(data.to_owned());
        self
    }

    /// Starts the program through another one that executes it, such as `prlimit`.
    pub fn through(mut self, other: &[&str]) -> Self {
        self.through = other.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    fn command(&self, folder: &Path) -> (Command, PathBuf) {
        let data = self.data.clone().unwrap_or_else(|| folder.join("data"));
        let program = env!("CARGO_BIN_EXE_segment-loops");
        let mut command = match self.through.split_first() {
            Some((other, arguments)) => {
                let mut command = Command::new(other);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env_clear().envs(&self.env).current_dir(folder);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
        if let Some(text) = &self.config {
            let file = folder.join(CONFIG);
            std::fs::write(&file, text).unwrap();
            command.arg("--config").arg(file);
        }
        (command, data)
    }

    /// Another command with the same settings, on a data folder.
    pub fn other_command(&self, folder: &Path, data: &Path, arguments: &[&str]) -> Command {
        let mut command = self.plain_command(folder, arguments);
        command.arg("--data").arg(data);
        command
    }

    /// Another command with the same settings.
    pub fn plain_command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segment-loops"));
        command.env_clear().envs(&self.env).current_dir(folder);
        command.args(arguments);
        if let Some(text) = &self.config {
            let file = folder.join(CONFIG);
            std::fs::write(&file, text).unwrap();
            command.arg("--config").arg(file);
        }
        command
    }

    /// Runs another command with the same settings on a data folder. Its output must contain neither a secret nor an
    /// address.
    pub async fn command_on(&self, data: &Path, arguments: &[&str], input: &[u8]) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        let mut command = self.other_command(folder.path(), data, arguments);
        let input = input.to_owned();
        // Waits on another thread, because the scripted Loops runs on this one.
        let ended = tokio::task::spawn_blocking(move || {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut process = command.spawn().unwrap();
            let mut stdin = process.stdin.take().unwrap();
            let writer = std::thread::spawn(move || {
                // A command that ends early does not read all its input.
                let _ = stdin.write_all(&input);
            });
            let output = process.wait_with_output().unwrap();
            writer.join().unwrap();
            output
        });
        let output = ended.await.unwrap();
        drop(folder);
        let ran = Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        for secret in [WRITE_KEY, API_KEY, WEBHOOK_SECRET, ADMIN_TOKEN, EMAIL_DOMAIN] {
            assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{ran:?}");
        }
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        ran
    }

    /// Runs the program until it ends on its own, and returns the exit code and standard error.
    pub fn run_to_end(&self) -> (Option<i32>, String) {
        let folder = tempfile::tempdir().unwrap();
        let (mut command, _) = self.command(folder.path());
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stderr = process.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let began = Instant::now();
        let ended = loop {
            match process.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if began.elapsed() > PATIENCE => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        if ended.is_none() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        let text = reader.join().unwrap();
        let Some(status) = ended else { panic!("the program did not end: {text}") };
        (status.code(), text)
    }

    /// Starts the program and waits until it listens.
    pub fn start(&self) -> Service {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        self.start_in(folder)
    }

    /// Starts the program, which may crash at any moment, even before it logs that it listens. In that case no request
    /// reaches it, and `Service::has_ended` returns true.
    pub fn start_to_crash(&self) -> Service {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        self.run_in(folder, true)
    }

    fn start_in(&self, folder: Arc<tempfile::TempDir>) -> Service {
        self.run_in(folder, false)
    }

    fn run_in(&self, folder: Arc<tempfile::TempDir>, may_crash: bool) -> Service {
        let (mut command, data) = self.command(folder.path());
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (address_sender, address) = std::sync::mpsc::channel();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let parsed: Value = serde_json::from_str(&line).unwrap_or_default();
                if parsed["message"] == "listening" {
                    let _ = address_sender.send(parsed["address"].as_str().unwrap().to_owned());
                }
                lines.lock().unwrap().push(line);
            }
        });
        let address = match address.recv_timeout(PATIENCE) {
            Ok(address) => address,
            Err(RecvTimeoutError::Disconnected) if may_crash => "127.0.0.1:0".to_owned(),
            Err(_) => {
                let _ = process.kill();
                panic!("the program did not start: {:?}", log.lock().unwrap());
            }
        };
        Service {
            base_url: format!("http://{address}"),
            process,
            log,
            reader: Some(reader),
            data,
            folder,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }
}

impl Service {
    /// Sends `body` with the write key, as an SDK does.
    pub async fn post(&self, path: &str, body: impl ToString) -> Answer {
        let request = self.request(reqwest::Method::POST, path);
        Self::answer(request.basic_auth(WRITE_KEY, Some("")).body(body.to_string())).await
    }

    /// A request to be completed and passed to [`Service::answer`].
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base_url)).timeout(PATIENCE)
    }

    /// Sends a request, and returns the response.
    pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, headers, body }
    }

    /// Sends a message that must be accepted.
    pub async fn accept(&self, path: &str, body: impl ToString) {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Waits until `is_reached` is true of a message, and returns it as the admin API shows it.
    ///
    /// The program records an outcome after Loops has responded, and offers no way to wait for that. So this polls the
    /// API.
    pub async fn message(&self, id: &str, is_reached: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let answer = self.admin(&format!("/api/messages/{id}")).await;
            let found = answer.body["messages"].get(0).cloned().unwrap_or_default();
            if is_reached(&found) {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// GET with the admin token.
    pub async fn admin(&self, path: &str) -> Answer {
        Self::answer(self.request(reqwest::Method::GET, path).bearer_auth(ADMIN_TOKEN)).await
    }

    /// The stored messages by message id. The admin API does not show contents.
    pub async fn stored(&self) -> HashMap<String, Vec<Value>> {
        let read = |payload: Vec<u8>| serde_json::from_slice(&payload).unwrap();
        let each = self.stored_bytes().await.into_iter();
        each.map(|(id, payloads)| (id, payloads.into_iter().map(read).collect())).collect()
    }

    /// The same as bytes, because other parsers refuse deeply nested JSON and numbers beyond a double's range.
    pub async fn stored_bytes(&self) -> HashMap<String, Vec<Vec<u8>>> {
        let mut stored: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
        let database = self.database();
        let mut rows = database
            .prepare("SELECT message_id, payload FROM messages JOIN payloads USING (seq)")
            .unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        for row in rows {
            let (id, payload) = row.unwrap();
            stored.entry(id).or_default().push(payload);
        }
        stored
    }

    /// Overwrites the configuration file.
    pub fn write_config(&self, text: &str) {
        std::fs::write(self.folder.path().join(CONFIG), text).unwrap();
    }

    /// Changes the database from outside, for example to simulate the passing of time.
    pub async fn alter(&self, statement: &'static str) {
        self.database().execute_batch(statement).unwrap();
    }

    /// The database, opened as another program would.
    pub fn database(&self) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(self.data.join("segment-loops.db")).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The log so far, with a JSON object for each line.
    pub fn log(&self) -> Vec<Value> {
        let lines = self.log.lock().unwrap();
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_default()).collect()
    }

    /// Waits for a log line that satisfies `is_it`.
    pub async fn logged(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            if let Some(line) = self.log().into_iter().find(|line| is_it(line)) {
                return line;
            }
            assert!(began.elapsed() < PATIENCE, "not logged");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills the program like `kill -9`, and starts it again on the same database.
    pub fn crash_and_restart(mut self, setup: &Setup) -> Service {
        self.crash();
        self.restart(setup)
    }

    /// Kills the program like `kill -9`.
    pub fn crash(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops the program as a container platform does, and starts it again on the same database.
    pub async fn stop_and_restart(mut self, setup: &Setup) -> Service {
        assert_eq!(self.stop().await, Some(0));
        self.restart(setup)
    }

    fn restart(self, setup: &Setup) -> Service {
        let folder = Arc::clone(&self.folder);
        setup.start_in(folder)
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        signal(self.process.id(), name);
    }

    /// Stops the program with SIGTERM, and returns its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait().await
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Waits for the program's end. The scripted Loops continues in the meantime on the same thread.
    pub async fn wait(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("log of the program:\n{}", self.log.lock().unwrap().join("\n"));
            return;
        }
        for line in self.log.lock().unwrap().iter() {
            for secret in [WRITE_KEY, API_KEY, WEBHOOK_SECRET, ADMIN_TOKEN, EMAIL_DOMAIN] {
                assert!(!line.contains(secret), "the log holds {secret}: {line}");
            }
            assert!(!line.contains("panicked"), "the program panicked: {line}");
        }
    }
}

/// Sends a signal with the shell's built-in `kill`, because there may be no program of that name.
pub fn signal(process: u32, name: &str) {
    let command = format!("kill -{name} {process}");
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}
