"""The unit of systemd: verified and hardened; its environment and system calls are tried with the program."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import unittest

from support import DEPLOY, PATIENCE, PROGRAM, ROOT, is_known, run, wait_for

UNIT = DEPLOY / "systemd/segment-loops.service"


def settings(name):
    """All values of a setting, in order."""
    return re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text())


def setting(name):
    [value] = settings(name)
    return value


def allowed_calls():
    """The system calls that the unit allows, by what systemd has in each of its groups."""
    groups, group = {}, None
    for line in run("systemd-analyze", "syscall-filter", "--no-pager").splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line.strip(), set())
        elif (word := line.strip()) and not word.startswith("#") and group is not None:
            group.add(word)

    def calls(name):
        if not name.startswith("@"):
            return {name}
        return set().union(*(calls(one) for one in groups[name]))

    allowed = set()
    for line in settings("SystemCallFilter"):
        named = set().union(*(calls(one) for one in line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


class Unit(unittest.TestCase):
    def test_systemd_accepts_it(self):
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder, UNIT.name)
            unit.write_text(UNIT.read_text().replace("/usr/local/bin/segment-loops", str(PROGRAM)))
            self.assertEqual(run("systemd-analyze", "verify", "--man=no", unit), "")

    def test_it_is_exposed_little(self):
        run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", UNIT)

    def test_it_has_time_to_stop(self):
        default = re.search(r"(?m)^shutdown_grace_ms = ([\d_]+)$", (ROOT / "config/default.toml").read_text())[1]
        for name in ("TimeoutStopSec", "WatchdogSec"):
            self.assertGreater(int(setting(name)) * 1_000, 2 * int(default), name)

    def test_each_credential_is_used(self):
        loaded = {value.split(":")[0] for value in settings("LoadCredential")}
        used = set(re.findall(r"=%d/(\w+)$", "\n".join(settings("Environment")), re.M))
        self.assertEqual(loaded, used)

    def test_the_program_starts_with_its_environment_notifies_and_needs_no_other_system_calls(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "credentials").mkdir()
            for value in settings("LoadCredential"):
                (folder / "credentials" / value.split(":")[0]).write_text("secret")
            environment = dict(value.split("=", 1) for value in settings("Environment"))
            for name, value in environment.items():
                self.assertTrue(is_known(name), name)
                environment[name] = value.replace("%d", str(folder / "credentials")).replace("%S", str(folder))
            # The port is one that the system chooses.
            self.assertEqual(environment.pop("SEGMENT_LOOPS__SERVER__LISTEN"), "127.0.0.1:8080")
            environment["SEGMENT_LOOPS__SERVER__LISTEN"] = "127.0.0.1:0"
            self.assertEqual(setting("Type"), "notify")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
                notified.bind(str(folder / "notify"))
                notified.settimeout(PATIENCE)
                environment |= {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "200000"}
                [program, *arguments] = setting("ExecStart").split()
                self.assertEqual(program, "/usr/local/bin/segment-loops")
                trace = folder / "trace"
                process = subprocess.Popen(
                    ["strace", "-f", "-qq", "-o", trace, PROGRAM, *arguments], env=environment, stderr=subprocess.PIPE
                )
                try:
                    self.assertEqual(notified.recv(100), b"READY=1")
                    self.assertEqual(notified.recv(100), b"WATCHDOG=1")
                    # strace itself does not pass the signal on.
                    [child] = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                    os.kill(int(child), signal.SIGHUP)
                    self.assertEqual(notified.recv(100), b"WATCHDOG=1")
                    os.kill(int(child), signal.SIGTERM)
                    wait_for("the end", lambda: notified.recv(100) == b"STOPPING=1")
                    _, log = process.communicate(timeout=PATIENCE)
                finally:
                    process.kill()
                    process.wait()
            self.assertEqual(process.returncode, 0, log.decode())
            self.assertIn(b"configuration reloaded", log)
            made = set(re.findall(r"(?m)^\d+ +(\w+)\(", trace.read_text()))
            self.assertGreater(len(made), 20)
            # As root, SQLite gives its files to the owner of the database; the unit's user is not root.
            self.assertEqual(made - allowed_calls() - {"fchown"}, set())
