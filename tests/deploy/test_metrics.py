"""Alert rules, dashboard and metrics, read by Prometheus and promtool."""

import json
import pathlib
import re
import tempfile
import unittest
import urllib.parse

import yaml

from support import DEPLOY, ROOT, dev, free_port, request, run, running, wait_for

HERE = pathlib.Path(__file__).parent
RULES = DEPLOY / "prometheus/segment-loops.rules.yml"
BOARD = DEPLOY / "grafana/segment-loops.json"
METRIC = re.compile(r"\b(?:segment_loops|http_server|process)_[a-z_]+[a-z]\b")

# Metrics without a series, or expressions without a result, while all is well in `dev`.
EMPTY_WHILE_WELL = {
    # No backup was made.
    "segment_loops_backup_timestamp_seconds",
    # Handing webhooks on is not configured.
    "segment_loops_feedback_forwards_total",
    # Nothing was rejected.
    "segment_loops_rejected_total",
}


def rules():
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def panels():
    for panel in json.loads(BOARD.read_text())["panels"]:
        yield panel
        yield from panel.get("panels", [])


def board_expressions():
    """Each expression of the board, as Grafana sends it when all is selected."""
    board = json.loads(BOARD.read_text())
    variables = {"$__rate_interval": "1m", "$__range": "1h"}
    variables |= {f"${one['name']}": one.get("allValue", ".*") for one in board["templating"]["list"]}
    for panel in panels():
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in variables.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression


def described():
    """The metrics of the source code."""
    source = (ROOT / "src/telemetry/metrics.rs").read_text()
    return set(re.findall(r'(?:counter|gauge|histogram) [A-Z_]+ = "(\w+)"', source))


def metrics_of(expression):
    """The metrics that an expression reads."""
    suffix = re.compile(r"_(bucket|sum|count)$")
    return {
        suffix.sub("", name) if suffix.sub("", name) in described() else name for name in METRIC.findall(expression)
    }


class Rules(unittest.TestCase):
    def test_promtool_accepts_them(self):
        run("promtool", "check", "rules", "--lint-fatal", RULES)

    def test_each_fires_when_it_should_and_only_then(self):
        files = [HERE / "alerts.yml", HERE / "alerts-of-days.yml"]
        run("promtool", "test", "rules", *files)
        tests = [test for file in files for test in yaml.safe_load(file.read_text())["tests"]]
        for rule in rules():
            name = rule["alert"]
            series = [
                one["series"] for test in tests if test["name"].split(",")[0] == name for one in test["input_series"]
            ]
            for kind in ("fires", "almost"):
                self.assertTrue(any(f'="{kind}' in one for one in series), f"{name} has no case that {kind}")

    def test_each_has_a_severity_and_says_what_to_do(self):
        runbook = (ROOT / "docs/runbook.md").read_text()
        for rule in rules():
            name, annotations = rule["alert"], rule["annotations"]
            self.assertTrue(name.startswith("SegmentLoops"), name)
            self.assertIn(rule["labels"]["severity"], ["critical", "warning", "info"], name)
            self.assertEqual(set(annotations), {"summary", "description", "runbook_url"}, name)
            page, anchor = annotations["runbook_url"].split("#")
            self.assertEqual(page, "docs/runbook.md")
            [row] = [line for line in runbook.splitlines() if f'<a id="{anchor}">' in line]
            self.assertIn(f"`{name}`", row)

    def test_they_read_metrics_that_exist(self):
        for rule in rules():
            self.assertLessEqual(metrics_of(rule["expr"]), described(), rule["alert"])


class Board(unittest.TestCase):
    def test_it_reads_metrics_that_exist(self):
        for title, expression in board_expressions():
            self.assertLessEqual(metrics_of(expression), described(), title)

    def test_its_panels_have_ids_titles_units_and_room(self):
        ids = [panel["id"] for panel in panels()]
        self.assertEqual(len(ids), len(set(ids)))
        taken = set()
        for panel in panels():
            place = panel["gridPos"]
            self.assertTrue(panel["title"])
            if panel["type"] != "row":
                self.assertTrue(panel["description"], panel["title"])
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            self.assertFalse(taken & cells, f"{panel['title']} overlaps another panel")
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells

    def test_it_has_five_rows_and_asks_the_source_that_is_selected(self):
        rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
        self.assertEqual(rows, ["Is it well?", "In", "Queue", "Out", "Store and process"])
        for panel in panels():
            if panel["type"] != "row":
                self.assertEqual(panel["datasource"]["uid"], "${datasource}", panel["title"])


class Metrics(unittest.TestCase):
    """The program, scraped by Prometheus."""

    @classmethod
    def setUpClass(cls):
        cls.service = cls.enterClassContext(dev())
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        config = folder / "prometheus.yml"
        config.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [
                        {"job_name": "segment-loops", "static_configs": [{"targets": [cls.service.address]}]}
                    ],
                }
            )
        )
        cls.url = f"http://127.0.0.1:{free_port()}"
        cls.enterClassContext(
            running(
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={cls.url.removeprefix('http://')}",
            )
        )
        wait_for("Prometheus", lambda: request(f"{cls.url}/-/ready").status == 200)
        # The first messages count only from zero.
        wait_for("the first scrape", lambda: cls.ask('segment_loops_messages_accepted_total{type="track"} == 0'))
        for body in (
            {"type": "identify", "userId": "u1", "messageId": "m1", "traits": {"email": "ada@example.com"}},
            {"type": "track", "userId": "u1", "messageId": "m2", "event": "Signed Up"},
        ):
            answer = request(f"{cls.service.url}/v1/{body['type']}", body, key="dev")
            assert answer.status == 200, answer.body
        query = 'sum(segment_loops_deliveries_total{outcome="delivered"}) >= 2'
        wait_for("the deliveries", lambda: cls.ask(query))
        query = "count_over_time(segment_loops_store_ready[1m]) >= 5"
        wait_for("some scrapes", lambda: cls.ask(query))

    @classmethod
    def ask(cls, expression):
        answer = request(f"{cls.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        assert answer.status == 200, f"{expression}: {answer.body}"
        return answer.json["data"]["result"]

    def test_promtool_finds_nothing_wrong_with_them(self):
        metrics = request(f"{self.service.url}/metrics").body.decode()
        self.assertEqual(run("promtool", "check", "metrics", input=metrics), "")

    def test_each_has_a_series_and_is_explained(self):
        explained = (ROOT / "docs/metrics.md").read_text()
        for name in described():
            self.assertIn(f"`{name}`", explained)
            if name not in EMPTY_WHILE_WELL:
                found = self.ask(name) or self.ask(f"{name}_count")
                self.assertTrue(found, name)
        exported = request(f"{self.service.url}/metrics").body.decode()
        self.assertLessEqual(set(re.findall(r"# TYPE (\S+)", exported)), described())

    def test_each_expression_of_the_board_has_a_result(self):
        for title, expression in board_expressions():
            with self.subTest(title=title, expression=expression):
                result = self.ask(expression)
                if not metrics_of(expression) & EMPTY_WHILE_WELL and "ALERTS" not in expression:
                    self.assertTrue(result)

    def test_no_alert_fires_while_all_is_well(self):
        for rule in rules():
            # The disk of this machine may be as full as it likes.
            if not rule["alert"].startswith("SegmentLoopsDisk"):
                with self.subTest(rule=rule["alert"]):
                    # On a busy machine, a scrape may fail meanwhile.
                    wait_for("its end", lambda: self.ask(rule["expr"]) == [])
        wait_for("the end of all", lambda: self.ask('ALERTS{alertname!~"SegmentLoopsDisk.+"}') == [])
        loaded = request(f"{self.url}/api/v1/rules").json["data"]["groups"]
        self.assertEqual([rule["health"] for rule in loaded[0]["rules"]], ["ok"] * len(rules()))
