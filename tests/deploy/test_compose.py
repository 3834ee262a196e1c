"""The Compose files: as the specification of Compose has them, with a configuration that the program accepts."""

import contextlib
import pathlib
import re
import tempfile
import unittest

import yaml

from support import DEPLOY, PROGRAM, ROOT, Service, is_known, request, run

FILES = [DEPLOY / "compose.yaml", DEPLOY / "compose.postgres.yaml"]

# The services of the program in each.
OURS = {"compose.yaml": ["segment-loops"], "compose.postgres.yaml": ["segment-loops-1", "segment-loops-2"]}


def read(file):
    return yaml.safe_load(file.read_text())


def ours(file):
    return {name: read(file)["services"][name] for name in OURS[file.name]}


class Compose(unittest.TestCase):
    def test_each_is_as_the_specification_has_it(self):
        run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *FILES)

    def test_what_is_used_is_declared_and_what_is_declared_is_used(self):
        for file in FILES:
            compose = read(file)
            services = compose["services"].values()
            used = {
                "secrets": {name for service in services for name in service.get("secrets", [])},
                "volumes": {
                    volume.split(":")[0]
                    for service in services
                    for volume in service.get("volumes", [])
                    if not volume.startswith(".")
                },
                "networks": {name for service in services for name in service.get("networks", [])},
            }
            for kind, names in used.items():
                self.assertEqual(names, set(compose.get(kind, {})), f"{file.name}: {kind}")
            for service in services:
                for value in service.get("environment", {}).values():
                    if value.startswith("/run/secrets/"):
                        self.assertIn(value.removeprefix("/run/secrets/"), service["secrets"], file.name)
                for other in service.get("depends_on", {}):
                    self.assertIn("healthcheck", compose["services"][other])

    def test_each_file_that_is_mounted_or_built_exists(self):
        for file in FILES:
            for service in read(file)["services"].values():
                if "build" in service:
                    self.assertTrue((DEPLOY / service["build"]["context"] / "Dockerfile").exists())
                for volume in service.get("volumes", []):
                    if volume.startswith("."):
                        self.assertTrue((DEPLOY / volume.split(":")[0]).is_file(), volume)

    def test_each_secret_is_made_by_the_commands_at_the_top(self):
        made = " ".join(line for file in FILES for line in file.read_text().splitlines() if line.startswith("#"))
        for file in FILES:
            for name, secret in read(file)["secrets"].items():
                self.assertEqual(secret["file"], f"secrets/{name}")
                self.assertRegex(made, rf"\b{name}\b")

    def test_the_program_has_no_rights_and_time_to_stop(self):
        for file in FILES:
            for name, service in ours(file).items():
                self.assertTrue(service["read_only"], name)
                self.assertEqual(service["cap_drop"], ["ALL"])
                self.assertEqual(service["security_opt"], ["no-new-privileges:true"])
                self.assertNotIn("privileged", service)
                grace = int(re.fullmatch(r"(\d+)s", service["stop_grace_period"])[1])
                default = re.search(r"(?m)^shutdown_grace_ms = ([\d_]+)$", (ROOT / "config/default.toml").read_text())[
                    1
                ]
                self.assertGreater(grace * 1_000, 2 * int(default))

    def test_only_the_proxy_is_open_to_others(self):
        for file in FILES:
            for name, service in read(file)["services"].items():
                for port in service.get("ports", []):
                    self.assertTrue(port.startswith("127.0.0.1:") or name == "caddy", f"{file.name}: {name} {port}")

    def test_the_proxy_knows_the_processes_and_they_know_the_proxy(self):
        compose = read(DEPLOY / "compose.postgres.yaml")
        upstreams = compose["services"]["caddy"]["environment"]["UPSTREAMS"]
        self.assertEqual(upstreams, " ".join(f"{name}:8080" for name in OURS["compose.postgres.yaml"]))
        [network] = compose["networks"]["front"]["ipam"]["config"]
        for service in ours(DEPLOY / "compose.postgres.yaml").values():
            trusted = service["environment"]["SEGMENT_LOOPS__SERVER__TRUSTED_PROXIES"]
            self.assertEqual(trusted, network["subnet"])

    def test_the_program_accepts_its_environment(self):
        for file in FILES:
            for service in ours(file).values():
                self.assertEqual([name for name in service["environment"] if not is_known(name)], [])
                with self.environment(service) as environment:
                    run(PROGRAM, "check", "--offline", env=environment)

    def test_the_program_reads_its_secrets(self):
        service = ours(DEPLOY / "compose.yaml")["segment-loops"]
        with self.environment(service) as environment:
            data = pathlib.Path(environment["ADMIN_TOKEN_FILE"]).parent / "data"
            arguments = ["serve", "--listen", "127.0.0.1:0", "--data", data]
            with Service(*arguments, env=environment) as running:
                body = {"userId": "u", "event": "e"}
                answer = request(f"{running.url}/v1/track", body, key="of-segment_write_key")
                self.assertEqual(answer.status, 200, answer.body)
                headers = {"Authorization": "Bearer of-admin_token"}
                self.assertEqual(request(f"{running.url}/api/status", headers=headers).status, 200)

    @contextlib.contextmanager
    def environment(self, service):
        """The environment of a service, with secrets in a folder of this machine."""
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(service["environment"])
            for key, value in environment.items():
                if value.startswith("/run/secrets/"):
                    name = pathlib.Path(value).name
                    url = "postgres://postgres:x@postgres:5432/postgres"
                    pathlib.Path(folder, name).write_text(url if name == "database_url" else f"of-{name}\n")
                    environment[key] = f"{folder}/{name}"
            yield environment
