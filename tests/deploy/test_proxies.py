"""Caddy and nginx in front of the program, with the configurations of deploy/."""

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import socket
import ssl
import tempfile
import unittest

from support import DEPLOY, Service, free_port, run, running, wait_for

CONFIG = """
[server]
listen = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1"]
[store]
data = "{data}"
[sources.app]
write_keys = ["key"]
webhook_secrets = ["secret"]
[sources.page]
write_keys = ["page-key"]
browser = true
address_requests_max = 5
[destinations.default]
api_key = "k"
base_url = "http://127.0.0.1:9/api/v1"
loops_webhook_secrets = ["whsec_ZGV2"]
"""


class Proxied:
    """What a proxy must do, whichever it is."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        config = cls.folder / "config.toml"
        config.write_text(CONFIG.format(data=cls.folder / "data"))
        cls.service = cls.enterClassContext(Service("serve", "--config", config))
        cls.port = free_port()
        cls.enterClassContext(cls.proxy([cls.service.address]))
        wait_for("the proxy", lambda: cls.ask("GET", "/").status == 404)

    @classmethod
    def connect(cls, address="127.0.0.1"):
        # The certificate is of the test's own making.
        trust = ssl._create_unverified_context()
        # Caddy chooses the site by the name.
        connection = http.client.HTTPSConnection(
            "localhost", cls.port, timeout=60, context=trust, source_address=(address, 0)
        )
        connection._create_connection = lambda _, *rest: socket.create_connection(("127.0.0.1", cls.port), *rest)
        return contextlib.closing(connection)

    @classmethod
    def ask(cls, method, path, body=None, headers=None, address="127.0.0.1"):
        with cls.connect(address) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            answer.content = answer.read()
            return answer

    def track(self, key="key", path="/v1/track", **options):
        body = json.dumps({"userId": "u", "event": "e", "writeKey": key})
        return self.ask("POST", path, body, **options)

    def test_messages_are_accepted(self):
        for path in ("/v1/track", "/v1/t", "//v1//track"):
            answer = self.track(path=path)
            self.assertEqual((answer.status, json.loads(answer.content)), (200, {"success": True}), path)
        batch = json.dumps({"writeKey": "key", "batch": [{"type": "track", "userId": "u", "event": "e"}]})
        for path in ("/v1/batch", "/v1", "/beacon/v1/batch?writeKey=key"):
            self.assertEqual(self.ask("POST", path, batch).status, 200, path)

    def test_the_largest_body_gets_through_and_a_larger_one_is_answered_by_the_program(self):
        message = {"type": "track", "userId": "u", "event": "e", "properties": {"x": "x" * 900_000}}
        batch = json.dumps({"writeKey": "key", "batch": [message] * 11})
        self.assertTrue(9_900_000 < len(batch) < 10_485_760)
        self.assertEqual(self.ask("POST", "/v1/batch", batch).status, 200)
        answer = self.ask("POST", "/v1/batch", "x" * 10_500_000)
        self.assertEqual(answer.status, 413)
        self.assertEqual(json.loads(answer.content)["code"], "too_large")

    def test_a_signed_body_arrives_as_it_was(self):
        body = b'{ "type":"track",  "userId":"\\u00e9", "event":"e", "x": 1.0e2 }'
        signature = hmac.new(b"secret", body, hashlib.sha1).hexdigest()
        headers = {"Content-Type": "application/json", "X-Signature": signature}
        self.assertEqual(self.ask("POST", "/webhook/app", body, headers).status, 200)

    def test_what_loops_and_segment_send_gets_to_the_program(self):
        for path in ("/loops/default", "/destination", "/webhook/app"):
            answer = self.ask("POST", path, "{}")
            self.assertIn(answer.status, (400, 401), path)
            self.assertIn("code", json.loads(answer.content), path)

    def test_what_is_for_operators_is_hidden(self):
        hidden = [
            "/",
            "/console",
            "/console/login",
            "/api/messages",
            "/metrics",
            "/openapi.json",
            "/healthz",
            "/readyz",
            "/v2",
        ]
        for path in hidden:
            answer = self.ask("GET", path)
            self.assertEqual(answer.status, 404, path)
            self.assertNotIn(b"segment", answer.content.lower(), path)

    def test_pages_may_send_and_are_told_where_to(self):
        headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        preflight = self.ask("OPTIONS", "/v1/t", headers=headers)
        self.assertEqual(preflight.status, 200)
        for answer in (preflight, self.track(headers={"Origin": "https://shop.example"})):
            self.assertEqual(len(answer.headers.get_all("Access-Control-Allow-Origin")), 1)
        settings = json.loads(self.ask("GET", "/v1/projects/key/settings").content)
        sent_to = settings["integrations"]["Segment.io"]
        self.assertEqual((sent_to["protocol"], sent_to["apiHost"]), ("https", f"localhost:{self.port}/v1"))

    def test_each_sender_has_its_own_limit_and_cannot_pretend_to_be_another(self):
        one = [
            self.track("page-key", address="127.0.0.2", headers={"X-Forwarded-For": f"192.0.2.{number}"}).status
            for number in range(7)
        ]
        self.assertEqual(one[0], 200)
        self.assertEqual(one[-1], 429)
        self.assertEqual(self.track("page-key", address="127.0.0.3").status, 200)

    def test_plain_http_is_never_redirected(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/track", "{}")
            self.assertEqual(connection.getresponse().status, 400)


class Nginx(Proxied, unittest.TestCase):
    @classmethod
    @contextlib.contextmanager
    def proxy(cls, upstreams):
        config = (DEPLOY / "nginx/segment-loops.conf").read_text()
        certificate, key = cls.folder / "certificate.pem", cls.folder / "key.pem"
        new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        run(*new.split(), "-keyout", key, "-out", certificate)
        changes = {
            "server 127.0.0.1:8080;": " ".join(f"server {address};" for address in upstreams),
            "listen 443 ssl;": f"listen 127.0.0.1:{cls.port} ssl;",
            "server_name events.example.com;": "server_name localhost;",
            "/etc/ssl/events.example.com.pem": str(certificate),
            "/etc/ssl/events.example.com.key": str(key),
        }
        for one, other in changes.items():
            assert one in config, one
            config = config.replace(one, other)
        folders = "".join(
            f"{name}_temp_path {cls.folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = cls.folder / "nginx.conf"
        file.write_text(
            f"daemon off; pid {cls.folder}/nginx.pid; error_log stderr; {'user root;' if os.geteuid() == 0 else ''}"
            f"events {{}} http {{ access_log off; {folders}\n{config} }}"
        )
        with running("nginx", "-e", "stderr", "-p", cls.folder, "-c", file) as process:
            yield process


class Caddy(Proxied, unittest.TestCase):
    @classmethod
    @contextlib.contextmanager
    def proxy(cls, upstreams):
        config = (DEPLOY / "caddy/Caddyfile").read_text()
        # The certificate is made here, and other ports are free as well. No browser is to trust it.
        options = f"http_port {free_port()}\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n"
        assert config.count("\tauto_https") == 1
        file = cls.folder / "Caddyfile"
        file.write_text(config.replace("\tauto_https", f"\t{options}\tauto_https"))
        environment = os.environ | {
            "SITE": f"localhost:{cls.port}",
            "UPSTREAMS": " ".join(upstreams),
            "XDG_DATA_HOME": str(cls.folder),
            "XDG_CONFIG_HOME": str(cls.folder),
        }
        with running("caddy", "run", "--config", file, "--adapter", "caddyfile", env=environment) as process:
            yield process

    def test_the_file_is_formatted(self):
        self.assertEqual(run("caddy", "fmt", DEPLOY / "caddy/Caddyfile"), (DEPLOY / "caddy/Caddyfile").read_text())


class TwoProcesses(unittest.TestCase):
    """Caddy with two processes behind it, one of which ends."""

    def test_when_one_is_killed_the_other_takes_over(self):
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            services = []
            for name in ("one", "other"):
                config = folder / f"{name}.toml"
                config.write_text(CONFIG.format(data=folder / name))
                services.append(stack.enter_context(Service("serve", "--config", config)))
            proxied = type("Proxied", (Caddy,), {"folder": folder, "port": free_port()})
            stack.enter_context(proxied.proxy([service.address for service in services]))
            wait_for("the proxy", lambda: proxied.ask("GET", "/").status == 404)
            body = json.dumps({"userId": "u", "event": "e", "writeKey": "key"})
            send = lambda: proxied.ask("POST", "/v1/track", body).status
            self.assertEqual({send() for _ in range(20)}, {200})
            services[0].process.kill()
            # Until it is found to be gone, some get an error that every sender takes for "not now".
            seen = set()

            def are_accepted():
                answers = {send() for _ in range(20)}
                seen.update(answers)
                return answers == {200}

            wait_for("the other to take over", are_accepted)
            self.assertLessEqual(seen, {200, 502})
            accepted = [
                sum(isinstance(line, dict) and line.get("message") == "accepted" for line in service.log)
                for service in services
            ]
            self.assertTrue(all(accepted), accepted)
