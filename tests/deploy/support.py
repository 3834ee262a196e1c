"""Programs and files that the tests of several parts use."""

import base64
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROGRAM = pathlib.Path(os.environ["SEGMENT_LOOPS"])

# How long a machine under load may take for anything that is waited for.
PATIENCE = 60

# Everything stays on this machine, whatever proxy it is set up with.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def request(url, body=None, key=None, headers=None, timeout=PATIENCE):
    """Makes a request, a POST if there is a body; an answer with an error status is an answer."""
    headers = dict(headers or {})
    if key is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    wanted = urllib.request.Request(url, data=body, headers=headers)
    try:
        with _opener.open(wanted, timeout=timeout) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


def wait_for(what, check):
    """Asks again and again until the result is true, and returns it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if found := check():
                return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.05)


def run(*command, **options):
    """Runs a command to its end; the output is in the error if it fails."""
    command = [str(part) for part in command]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if ran.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit code {ran.returncode}\n{ran.stdout}")
    return ran.stdout


def is_known(variable):
    """Whether the program reads a variable: it passes over others."""
    short = re.findall(r'\("([A-Z_]+)", "[a-z_.]+"\)', (ROOT / "src/config/environment.rs").read_text())
    return variable.startswith("SEGMENT_LOOPS__") or variable.removesuffix("_FILE") in [*short, "MIMALLOC_PURGE_DELAY"]


def free_port():
    """A port that nothing listens on, for programs that cannot report the one that the system chose."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(*command, **options):
    """Runs a program while the block runs. Its output is printed if the block fails."""
    with tempfile.TemporaryFile() as output:
        command = [str(part) for part in command]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        except BaseException:
            output.seek(0)
            print(f"{command[0]} wrote:\n" + output.read().decode(errors="replace"))
            raise
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Service:
    """`segment-loops`, listening on ports that the system chose."""

    def __init__(self, *arguments, env=None):
        self.log = []
        self._listening = threading.Event()
        environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
        self.process = subprocess.Popen(
            [PROGRAM, *arguments, "--log-format", "json"],
            env=environment | (env or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(PATIENCE):
            raise AssertionError(f"the program does not listen: {self.log}")

    def _read(self):
        for line in self.process.stderr:
            with contextlib.suppress(ValueError):
                line = json.loads(line)
            self.log.append(line)
            if isinstance(line, dict) and line.get("message") == "listening":
                self.address = line["address"]
                self.url = "http://" + self.address
                self._listening.set()
        # It has ended.
        self._listening.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)
        self.process.stderr.close()


def dev():
    """The service with a simulated Loops."""
    return Service("dev", "--listen", "127.0.0.1:0", "--sandbox", "127.0.0.1:0")
