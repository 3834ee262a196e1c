"""Litestream with the configuration of deploy/: what was copied before a crash is there after it."""

import pathlib
import sqlite3
import tempfile
import threading
import unittest

import yaml

from support import DEPLOY, PROGRAM, Service, request, run, running, wait_for

KEY = "write-key"
ENVIRONMENT = {
    "LOOPS_API_KEY": "api-key",
    # Nothing is delivered.
    "LOOPS_BASE_URL": "http://127.0.0.1:9/api/v1",
    "SEGMENT_WRITE_KEY": KEY,
    "SEGMENT_LOOPS__STORE__WAL": "external",
}
MIB = 1024 * 1024


class Load:
    """Sends batches until it is stopped, and notes what was accepted."""

    def __init__(self, url):
        self.url, self.accepted, self.bytes = url, [], 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _send(self):
        number = 0
        while not self._stopped.is_set():
            ids = [f"m{number + n}" for n in range(20)]
            number += len(ids)
            batch = [
                {
                    "type": "track",
                    "userId": id,
                    "messageId": id,
                    "event": "Tested",
                    "properties": {"note": "x" * 5_000},
                }
                for id in ids
            ]
            try:
                status = request(f"{self.url}/v1/batch", {"batch": batch}, key=KEY).status
            except OSError:
                # The service was killed.
                return
            if status == 200:
                self.accepted += ids
                self.bytes += 20 * 5_000

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()


def message_ids(database):
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return {id for [id] in connection.execute("SELECT message_id FROM messages")}


class Litestream(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.data = self.folder / "data"
        self.database = self.data / "segment-loops.db"
        # As it is deployed, with a folder instead of an object store.
        config = yaml.safe_load((DEPLOY / "litestream.yml").read_text())
        [database] = config["dbs"]
        self.assertEqual(database["path"], "/data/segment-loops.db")
        database["path"] = str(self.database)
        database["replica"]["url"] = f"file://{self.folder / 'replica'}"
        self.config = self.folder / "litestream.yml"
        self.config.write_text(yaml.safe_dump(config))

    def copy(self, name):
        """A copy of the database, made from what Litestream has."""
        path = self.folder / name
        run("litestream", "restore", "-config", self.config, "-o", path, self.database)
        return path

    def has_copied(self, id):
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            try:
                return id in message_ids(self.copy(pathlib.Path(folder) / "copy.db"))
            except AssertionError:
                # There is no snapshot yet.
                return False

    def test_what_was_copied_before_a_crash_is_there_after_it(self):
        arguments = ["serve", "--listen", "127.0.0.1:0", "--data", self.data]
        # In a pod, Litestream starts first.
        with running("litestream", "replicate", "-config", self.config) as litestream:
            with Service(*arguments, env=ENVIRONMENT) as service, Load(service.url) as load:
                # The log is moved and emptied by Litestream alone, while everything goes on.
                wait_for("some load", lambda: load.bytes > 64 * MIB)
                wait_for("a full database", lambda: self.database.stat().st_size > 32 * MIB)
                log = self.database.with_name("segment-loops.db-wal")
                self.assertLess(log.stat().st_size, 64 * MIB, "the log is written from its beginning again")
                before = list(load.accepted)
                wait_for("the copy", lambda: self.has_copied(before[-1]))
                litestream.kill()
                service.process.kill()
                service.process.wait()
        copy = self.copy("copy.db")
        self.assertLessEqual(set(before), message_ids(copy))

        restored = self.folder / "restored"
        said = run(PROGRAM, "restore", copy, "--data", restored, env=ENVIRONMENT)
        self.assertIn("waiting), as of", said)
        self.assertLessEqual(set(before), message_ids(restored / "segment-loops.db"))
        arguments = ["serve", "--listen", "127.0.0.1:0", "--data", restored]
        with Service(*arguments, env=ENVIRONMENT) as service:
            self.assertEqual(request(f"{service.url}/readyz").status, 200)
            body = {"type": "track", "userId": "u", "messageId": "after", "event": "Tested"}
            self.assertEqual(request(f"{service.url}/v1/track", body, key=KEY).status, 200)
        self.assertIn("after", message_ids(restored / "segment-loops.db"))
