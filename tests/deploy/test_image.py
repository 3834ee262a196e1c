"""The image: built from the Dockerfile's own stages, except that the program is the one that the tests have."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import tomllib
import unittest
import zlib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support import PATIENCE, PROGRAM, ROOT, free_port, request, run, wait_for

# What the image may weigh beside the program.
BESIDE_THE_PROGRAM_BYTES = 8_000_000

NOBODY = 65532

# What the image consists of.
BILL = "usr/share/segment-loops/segment-loops.cdx.json"

# Files that buildah makes where a container has none, to run a command.
MADE_BY_BUILDAH = {"etc/group", "etc/hostname", "etc/hosts", "etc/passwd", "etc/resolv.conf"}


def instructions(stage):
    """The instructions of a stage of the Dockerfile, each with its arguments."""
    text = re.sub(r"\\\n", "", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()))
    stages = re.split(r"(?m)^(?=FROM )", text)[1:]
    [lines] = [lines for lines in stages if re.match(rf"FROM \S+ AS {stage}\n", lines)]
    for line in lines.splitlines()[1:]:
        if line.strip():
            yield line.split(maxsplit=1)


class Recipe(unittest.TestCase):
    def test_hadolint_finds_nothing(self):
        self.assertEqual(run("hadolint", ROOT / "Dockerfile"), "")

    def test_the_stage_that_compiles_has_all_files_that_it_needs(self):
        """Runs its steps in a folder that has what they copy and nothing else. The compiler only checks, and packages
        are not installed."""
        target = PROGRAM.parent.parent
        # Always the same one, so that the compiler can go on from the last time.
        folder = target / "deploy-tools/recipe"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for instruction, arguments in instructions("build"):
            if instruction == "COPY":
                *sources, to = arguments.split()
                for source in sources:
                    if (ROOT / source).is_dir():
                        shutil.copytree(ROOT / source, folder / to)
                    else:
                        shutil.copy(ROOT / source, folder / to)
            elif instruction == "RUN" and "cargo auditable" in arguments:
                command = arguments.replace("cargo auditable build --release", "cargo auditable check")
                run("sh", "-ec", command, cwd=folder, env=os.environ | {"CARGO_TARGET_DIR": str(target)})

    def test_a_program_that_is_built_so_names_its_crates(self):
        """A small one, with the same profile, and a crate of the same version."""
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            [version] = [
                one["version"]
                for one in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
                if one["name"] == "itoa"
            ]
            profile = re.search(r"(?ms)^\[profile\.release\]\n.*?(?=^\[|\Z)", (ROOT / "Cargo.toml").read_text())[0]
            (folder / "Cargo.toml").write_text(
                f'[package]\nname = "small"\nversion = "1.2.3"\n\n[dependencies]\nitoa = "={version}"\n\n{profile}'
            )
            (folder / "src").mkdir()
            (folder / "src/main.rs").write_text('fn main() { print!("{}", itoa::Buffer::new().format(7)); }')
            environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
            run("cargo", "auditable", "build", "--release", cwd=folder, env=environment)
            run("strip", folder / "target/release/small")
            section = folder / "section"
            run("objcopy", "--dump-section", f".dep-v0={section}", folder / "target/release/small")
            packages = json.loads(zlib.decompress(section.read_bytes()))["packages"]
            self.assertEqual({one["name"]: one["version"] for one in packages}, {"small": "1.2.3", "itoa": version})

    def test_nothing_that_is_copied_is_ignored(self):
        ignored = (ROOT / ".dockerignore").read_text().split()
        for instruction, arguments in instructions("build"):
            if instruction == "COPY":
                for source in arguments.split()[:-1]:
                    self.assertNotIn(source.split("/")[0], ignored)


@unittest.skipUnless(os.geteuid() == 0, "buildah needs to be root for its chroot isolation")
class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        stage = cls.folder / "stage"
        stage.mkdir()
        # Debug information is no part of it.
        run("strip", "-o", stage / "segment-loops", PROGRAM)
        cls.lay_out(stage)
        cls.program_bytes = (stage / "segment-loops").stat().st_size
        image = cls.build(stage)
        cls.container = cls.buildah("from", "--pull-never", stage.name).strip()
        cls.addClassCleanup(cls.buildah, "rm", cls.container)
        cls.root = pathlib.Path(cls.buildah("mount", cls.container).strip())
        cls.config = image["config"]
        cls.layers = image["rootfs"]

    @staticmethod
    def lay_out(stage):
        """Makes what the stage that compiles makes, from the program in it."""
        run(ROOT / "deploy/image/tree", stage / "segment-loops", stage / "tree")
        run(ROOT / "deploy/image/sbom", stage / "tree/root", cwd=ROOT)

    @classmethod
    def build(cls, stage):
        """Builds the last stage of the Dockerfile; returns the configuration of the image."""
        arguments = ["--format", "docker", "--isolation", "chroot", "--pull-never", "--build-context", f"build={stage}"]
        labels = ["--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc"]
        # As SOURCE_DATE_EPOCH has it: the time of the commit.
        time = ["--timestamp", "1700000000"]
        cls.buildah("bud", *arguments, *labels, *time, "-t", stage.name, "-f", ROOT / "Dockerfile", ROOT)
        return json.loads(cls.buildah("inspect", "--type", "image", stage.name))["Docker"]

    @classmethod
    def storage(cls):
        return ["buildah", "--storage-driver", "vfs", "--root", cls.folder / "store", "--runroot", cls.folder / "run"]

    @classmethod
    def buildah(cls, *arguments):
        return run(*cls.storage(), *arguments)

    def inside(self, *arguments, env=None):
        """The command that runs the program in the container."""
        options = [f"--env={name}={value}" for name, value in (env or {}).items()]
        command = [*self.storage(), "run", "--isolation", "chroot", *options, self.container, "--"]
        return [str(part) for part in [*command, *self.config["Entrypoint"], *arguments]]

    def files(self):
        """Every file but those that the system or the program may make."""
        skipped = {self.root / name for name in ("data", "dev", "proc", "run", "sys", "tmp")}
        found = {}
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if pathlib.Path(folder, name) not in skipped]
            for name in [*folders, *files]:
                about = os.lstat(pathlib.Path(folder, name))
                found[str(pathlib.Path(folder, name).relative_to(self.root))] = about
        return found

    def test_it_has_the_program_its_libraries_and_no_more(self):
        files = [name for name, about in self.files().items() if not stat.S_ISDIR(about.st_mode)]
        programs = [name for name in files if name.startswith(("bin", "sbin", "usr/bin", "usr/sbin"))]
        self.assertEqual(programs, ["usr/bin/segment-loops"])
        libraries = [name for name in files if name.startswith("lib")]
        self.assertEqual(len(libraries), 4, libraries)
        rest = sorted(set(files) - set(programs) - set(libraries))
        self.assertEqual(
            [name for name in rest if name not in MADE_BY_BUILDAH],
            ["etc/nsswitch.conf", "etc/ssl/certs/ca-certificates.crt", BILL],
        )
        beside = sum(about.st_size for about in self.files().values()) - self.program_bytes
        self.assertLess(beside, BESIDE_THE_PROGRAM_BYTES)

    def test_its_bill_of_materials_has_all_of_it(self):
        text = (self.root / BILL).read_text()
        self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_6).validate_str(text))
        bill = json.loads(text)
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        program = bill["metadata"]["component"]
        self.assertEqual((program["name"], program["version"]), ("segment-loops", version))
        parts = {one["name"]: one for one in bill["components"]}
        # What is linked, with its checksum; neither what tests use nor macros.
        for name in ("tokio", "rusqlite", "rustls", "opentelemetry"):
            self.assertTrue(parts[name]["hashes"], name)
        self.assertFalse(parts.keys() & {"proptest", "serde_derive", "cc", "prost-build"})
        [sqlite] = parts["libsqlite3-sys"]["components"]
        self.assertIn(f"sqlite:{sqlite['version']}:", sqlite["cpe"])
        self.assertEqual([one["name"] for one in parts["aws-lc-sys"]["components"]], ["aws-lc"])
        # Every file that is not ours is of a package.
        packages = [one for one in bill["components"] if one["purl"].startswith("pkg:deb/")]
        places = {place["location"] for one in packages for place in one["evidence"]["occurrences"]}
        files = {f"/{name}" for name, about in self.files().items() if stat.S_ISREG(about.st_mode)}
        ours = {"/usr/bin/segment-loops", "/etc/nsswitch.conf", f"/{BILL}"}
        self.assertEqual(files - ours - {f"/{name}" for name in MADE_BY_BUILDAH}, places)
        # Every dependency is listed.
        listed = {one["bom-ref"] for one in [program, *bill["components"]]}
        for one in bill["dependencies"]:
            self.assertLessEqual({one["ref"], *one["dependsOn"]}, listed)

    def test_built_twice_it_is_the_same(self):
        stage = self.folder / "again"
        stage.mkdir()
        shutil.copyfile(self.folder / "stage/segment-loops", stage / "segment-loops")
        self.lay_out(stage)
        # Not its whole configuration, in which buildah notes the container that it worked in.
        self.assertEqual(self.build(stage)["rootfs"], self.layers)

    def test_files_are_of_root_and_only_the_data_is_of_the_user(self):
        for name, about in self.files().items():
            self.assertEqual((about.st_uid, about.st_gid), (0, 0), name)
            self.assertFalse(about.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH), name)
        data, tmp = os.stat(self.root / "data"), os.stat(self.root / "tmp")
        self.assertEqual((data.st_uid, data.st_gid, stat.S_IMODE(data.st_mode)), (NOBODY, NOBODY, 0o700))
        self.assertEqual((tmp.st_uid, stat.S_IMODE(tmp.st_mode)), (0, 0o1777))

    def test_its_configuration(self):
        config = self.config
        self.assertEqual(config["User"], f"{NOBODY}:{NOBODY}")
        self.assertEqual(config["StopSignal"], "SIGTERM")
        self.assertEqual(config["Entrypoint"], ["/usr/bin/segment-loops"])
        self.assertEqual(config["Cmd"], ["serve"])
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "/usr/bin/segment-loops", "healthcheck"])
        self.assertEqual(list(config["Volumes"]), ["/data"])
        self.assertEqual(list(config["ExposedPorts"]), ["8080/tcp"])
        labels = config["Labels"]
        self.assertEqual(labels["org.opencontainers.image.version"], "1.2.3")
        self.assertEqual(labels["org.opencontainers.image.revision"], "abc")
        self.assertEqual(labels["org.opencontainers.image.licenses"], "MIT OR Apache-2.0")

    def test_the_program_runs_as_a_user_without_rights(self):
        version = run(*self.inside("--version"))
        self.assertRegex(version, r"^segment-loops \d+\.\d+\.\d+\n$")
        env = {"LOOPS_API_KEY": "k", "SEGMENT_WRITE_KEY": "w"}
        self.assertIn("ok", run(*self.inside("check", "--offline", env=env)).lower())
        # It cannot write elsewhere.
        failed = subprocess.run(
            self.inside("dev", "--listen", "127.0.0.1:0", "--sandbox", "127.0.0.1:0", "--data", "/usr/data"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertNotEqual(failed.returncode, 0)
        self.assertIn("denied", failed.stderr)

    def test_dev_answers_and_leaves_nothing_behind(self):
        before = self.written()
        service, sandbox = (f"127.0.0.1:{free_port()}" for _ in range(2))
        with self.running("dev", "--listen", service, "--sandbox", sandbox):
            wait_for("the service", lambda: request(f"http://{service}/readyz").status == 200)
            self.assertEqual(self.health(service), 0)
            answer = request(f"http://{service}/v1/track", {"userId": "u", "event": "e"}, key="dev")
            self.assertEqual(answer.json, {"success": True})
        self.assertNotEqual(self.health(service), 0)
        self.assertEqual(self.written(), before)

    def written(self):
        """When each file was written, but for those that buildah writes."""
        files = self.files().items()
        return {
            name: about.st_mtime_ns
            for name, about in files
            if not stat.S_ISDIR(about.st_mode) and name not in MADE_BY_BUILDAH
        }

    def health(self, address):
        env = {"SEGMENT_LOOPS__SERVER__LISTEN": address}
        return subprocess.run(self.inside("healthcheck", env=env), capture_output=True).returncode

    def test_serve_keeps_its_data_in_the_volume(self):
        address = f"127.0.0.1:{free_port()}"
        env = {
            "LOOPS_API_KEY": "k",
            "LOOPS_BASE_URL": "http://127.0.0.1:9/api/v1",
            "SEGMENT_WRITE_KEY": "w",
            "SEGMENT_LOOPS__SERVER__LISTEN": address,
        }
        with self.running(*self.config["Cmd"], env=env):
            wait_for("the service", lambda: request(f"http://{address}/readyz").status == 200)
            self.assertEqual(self.health(address), 0)
            [database] = self.folder.glob("store/vfs-containers/**/segment-loops.db")
            about = os.stat(database)
            self.assertEqual((about.st_uid, stat.S_IMODE(about.st_mode)), (NOBODY, 0o600))

    @contextlib.contextmanager
    def running(self, *arguments, env=None):
        """Runs the program in the container, stops it as `docker stop` does, and expects it to end well."""
        with tempfile.TemporaryFile() as output:
            command = self.inside(*arguments, env=env)
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            try:
                yield
                # Not buildah itself, which would kill it.
                os.kill(wait_for("the program", lambda: program_below(process.pid)), signal.SIGTERM)
                process.wait(PATIENCE)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(PATIENCE)
            output.seek(0)
            self.assertEqual(process.returncode, 0, output.read().decode())


def program_below(process):
    """The id of the program among the descendants of a process."""
    for thread in pathlib.Path(f"/proc/{process}/task").iterdir():
        for child in (thread / "children").read_text().split():
            if pathlib.Path(f"/proc/{child}/comm").read_text() == "segment-loops\n":
                return int(child)
            if found := program_below(child):
                return found
    return None
