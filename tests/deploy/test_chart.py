"""The Helm chart, rendered by Helm for a matrix of values, and judged as Kubernetes would."""

import contextlib
import copy
import json
import os
import pathlib
import tempfile
import unittest

import helm_python as helm
import kubernetes_validate
import yaml

from support import DEPLOY, PROGRAM, is_known, run

CHART = DEPLOY / "helm/segment-loops"

VERSIONS = [f"1.{minor}" for minor in range(30, 38)]

SECRETS = {"LOOPS_API_KEY": "k", "SEGMENT_WRITE_KEY": "w", "SEGMENT_WEBHOOK_SECRET": "s", "ADMIN_TOKEN": "t"}
DATABASE = {"DATABASE_URL": "postgres://u:p@db:5432/d"}
MATRIX = {
    "SQLite": {"secret": {"values": SECRETS}},
    "SQLite with an existing Secret": {"secret": {"existing": "mine"}},
    "SQLite with a class and a size": {
        "secret": {"existing": "mine", "keys": ["LOOPS_API_KEY", "SEGMENT_WRITE_KEY"]},
        "store": {"engine": "sqlite", "sqlite": {"size": "100Gi", "storageClass": "fast"}},
        "replicas": 1,
    },
    "SQLite without a class": {
        "secret": {"values": SECRETS},
        "store": {"sqlite": {"storageClass": "-"}},
        "networkPolicy": {"enabled": False},
    },
    "SQLite with Litestream": {
        "secret": {"values": SECRETS},
        "store": {
            "sqlite": {
                "litestream": {
                    "image": "registry.example/litestream:0.5.17",
                    "config": (DEPLOY / "litestream.yml").read_text(),
                    "secret": "bucket",
                }
            }
        },
    },
    "PostgreSQL": {"store": {"engine": "postgres"}, "secret": {"values": SECRETS | DATABASE}},
    "PostgreSQL with an existing Secret": {
        "store": {"engine": "postgres"},
        "replicas": 5,
        "secret": {"existing": "mine", "keys": ["LOOPS_API_KEY", "SEGMENT_WRITE_KEY", "DATABASE_URL"]},
    },
    "files": {
        "secret": {"values": SECRETS},
        "config": '[sources.shop]\nwrite_keys = ["shop-key"]\n\n[server]\nheader_timeout_ms = 80_000\n',
        "subscriptions": '[[subscriptions]]\nname = "Contacts"\naction = "createOrUpdateContact"\ntrigger = \'type = "identify"\'\n',
        "env": {"LOOPS_RATE_LIMIT": "20"},
        "trustedProxies": ["10.0.0.0/8", "192.168.0.0/16"],
    },
    "everything that can be switched on": {
        "store": {"engine": "postgres"},
        "secret": {"values": SECRETS | DATABASE},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "events.example.com",
            "tlsSecret": "tls",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "11m"},
        },
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "runbook": "https://wiki.example/segment-loops"},
            "dashboard": {"enabled": True},
        },
        "networkPolicy": {
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
            "adminFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
            "postgresPort": 6432,
            "extraEgress": [{"ports": [{"protocol": "TCP", "port": 8443}]}],
        },
    },
    "monitoring alone": {
        "secret": {"existing": "mine"},
        "monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    },
    "where it runs": {
        "secret": {"existing": "mine"},
        "image": {"repository": "registry.example/team/segment-loops", "tag": "1.2.3", "pullSecrets": ["registry"]},
        "serviceAccount": {"existing": "mine"},
        "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "podLabels": {"team": "growth"},
        "podAnnotations": {"a": "b"},
    },
    "a name as long as can be": {"secret": {"values": SECRETS}, "fullnameOverride": "n" * 70},
}

REFUSED = {
    "two with SQLite": ({"secret": {"existing": "mine"}, "replicas": 2}, "only one"),
    "PostgreSQL without a URL": ({"store": {"engine": "postgres"}, "secret": {"values": SECRETS}}, "DATABASE_URL"),
    "a URL with SQLite": ({"secret": {"values": SECRETS | DATABASE}}, "postgres"),
    "no secret": ({}, "secret"),
    "two secrets": ({"secret": {"existing": "mine", "values": SECRETS}}, "either"),
    "a misspelt key": ({"secret": {"existing": "mine"}, "replicaCount": 1}, "replicaCount"),
    "a misspelt key further in": ({"secret": {"existing": "mine"}, "store": {"engin": "sqlite"}}, "engin"),
    "another engine": ({"secret": {"existing": "mine"}, "store": {"engine": "mysql"}}, "engine"),
    "a secret that is none": ({"secret": {"existing": "mine", "keys": ["API_KEY"]}}, "keys"),
    "the latest image": ({"secret": {"existing": "mine"}, "image": {"tag": "latest"}}, "tag"),
    "an ingress without a host": ({"secret": {"existing": "mine"}, "ingress": {"enabled": True}}, "host"),
    "Litestream without a configuration": (
        {"secret": {"existing": "mine"}, "store": {"sqlite": {"litestream": {"image": "litestream:0.5.17"}}}},
        "a configuration",
    ),
    "Litestream with PostgreSQL": (
        {
            "secret": {"values": SECRETS | DATABASE},
            "store": {"engine": "postgres", "sqlite": {"litestream": {"image": "litestream:0.5.17", "config": "dbs: []"}}},
        },
        "PostgreSQL has tools of its own",
    ),
    "no size": ({"secret": {"existing": "mine"}, "store": {"sqlite": {"size": "10"}}}, "size"),
}


def render(values, name="demo"):
    """The manifests, as Kubernetes gets them."""
    with helm.Chart.load(str(CHART)) as chart:
        rendered = chart.render(copy.deepcopy(values), name=name, namespace="prod")
    documents = [yaml.safe_load_all(text) for path, text in sorted(rendered.items()) if path.endswith(".yaml")]
    return [document for one in documents for document in one if document]


def of_kind(manifests, kind):
    return [one for one in manifests if one["kind"] == kind]


def workload(manifests):
    [found] = of_kind(manifests, "StatefulSet") + of_kind(manifests, "Deployment")
    return found


class Chart(unittest.TestCase):
    def each(self):
        for self.case, values in MATRIX.items():
            yield values, render(values)

    def _formatMessage(self, message, standard):
        return f"with {getattr(self, 'case', 'other values')}: {super()._formatMessage(message, standard)}"

    def test_helm_finds_nothing_wrong_with_it(self):
        for name, values in MATRIX.items():
            for version in (VERSIONS[0], VERSIONS[-1]):
                report = helm.lint(str(CHART), copy.deepcopy(values), strict=True, kube_version=f"v{version}.0")
                # 1 is for information: it has no icon.
                self.assertEqual([one for one in report["messages"] if one["severity"] > 1], [], name)
                self.assertEqual(report["errors"], [], name)

    def test_values_that_cannot_work_are_refused_with_the_reason(self):
        for name, (values, reason) in REFUSED.items():
            with self.subTest(values=name):
                with helm.Chart.load(str(CHART)) as chart, self.assertRaisesRegex(Exception, reason):
                    chart.validate_schema(copy.deepcopy(values))
                    chart.render(copy.deepcopy(values), name="demo", namespace="prod")

    def test_the_schema_has_every_value_and_no_other(self):
        schema = json.loads((CHART / "values.schema.json").read_text())

        def compare(values, schema, place):
            if "properties" not in schema:
                return
            self.assertFalse(schema["additionalProperties"], place)
            self.assertEqual(set(values) | {"global"}, set(schema["properties"]) | {"global"}, place)
            for name, value in values.items():
                if isinstance(value, dict):
                    compare(value, schema["properties"][name], f"{place}.{name}")

        values = yaml.safe_load((CHART / "values.yaml").read_text())
        values["resources"] = {"requests": None, "limits": None}
        compare(values, schema, "values")

    def test_kubernetes_knows_every_field(self):
        for _, manifests in self.each():
            for manifest in manifests:
                if manifest["apiVersion"].startswith("monitoring.coreos.com"):
                    continue
                for version in VERSIONS:
                    kubernetes_validate.validate(manifest, version, strict=True)

    def test_every_object_has_a_name_a_namespace_and_labels(self):
        for _, manifests in self.each():
            names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
            self.assertEqual(len(names), len(set(names)))
            for manifest in manifests:
                about = manifest["metadata"]
                self.assertLessEqual(len(about["name"]), 63)
                self.assertEqual(about["namespace"], "prod")
                self.assertEqual(about["labels"]["app.kubernetes.io/name"], "segment-loops")
                self.assertEqual(about["labels"]["app.kubernetes.io/instance"], "demo")
                self.assertTrue(all(len(value) <= 63 for value in about["labels"].values()))

    def test_each_engine_has_its_shape(self):
        for values, manifests in self.each():
            found = workload(manifests)
            if values.get("store", {}).get("engine") == "postgres":
                self.assertEqual(found["kind"], "Deployment")
                self.assertEqual(found["spec"]["replicas"], values.get("replicas", 2))
                self.assertEqual(found["spec"]["strategy"]["rollingUpdate"], {"maxUnavailable": 0, "maxSurge": 1})
                self.assertEqual(len(of_kind(manifests, "PodDisruptionBudget")), 1)
                self.assertTrue(found["spec"]["template"]["spec"]["topologySpreadConstraints"])
            else:
                self.assertEqual(found["kind"], "StatefulSet")
                self.assertEqual(found["spec"]["replicas"], 1)
                [claim] = found["spec"]["volumeClaimTemplates"]
                self.assertEqual(claim["spec"]["accessModes"], ["ReadWriteOnce"])
                wanted = values.get("store", {}).get("sqlite", {})
                self.assertEqual(claim["spec"]["resources"]["requests"]["storage"], wanted.get("size", "10Gi"))
                kind = wanted.get("storageClass", "")
                self.assertEqual(claim["spec"].get("storageClassName"), {"": None, "-": ""}.get(kind, kind))
                self.assertEqual(found["spec"]["serviceName"], of_kind(manifests, "Service")[0]["metadata"]["name"])
                self.assertEqual(of_kind(manifests, "PodDisruptionBudget"), [])

    def test_selectors_find_the_pods(self):
        for _, manifests in self.each():
            found = workload(manifests)
            labels = found["spec"]["template"]["metadata"]["labels"].items()
            selectors = [found["spec"]["selector"]["matchLabels"]]
            selectors += [one["spec"]["selector"] for one in of_kind(manifests, "Service")]
            selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of_kind(manifests, "NetworkPolicy")]
            selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind(manifests, "PodDisruptionBudget")]
            for selector in selectors:
                self.assertLessEqual(selector.items(), labels)

    def test_pods_have_no_rights(self):
        """What the Pod Security Standard `restricted` asks for, and a root that cannot be written."""
        for _, manifests in self.each():
            pod = workload(manifests)["spec"]["template"]["spec"]
            self.assertFalse(pod["automountServiceAccountToken"])
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertEqual(pod["securityContext"]["runAsUser"], 65532)
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & set(pod))
            for container in pod["containers"] + pod.get("initContainers", []):
                rights = container["securityContext"]
                self.assertFalse(rights["allowPrivilegeEscalation"])
                self.assertTrue(rights["readOnlyRootFilesystem"])
                self.assertEqual(rights["capabilities"], {"drop": ["ALL"]})
                self.assertNotIn("privileged", rights)
            for volume in pod["volumes"]:
                self.assertLessEqual(set(volume) - {"name"}, {"secret", "configMap"})

    def test_the_image_is_that_of_the_application(self):
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        self.assertEqual(run(PROGRAM, "--version"), f"segment-loops {version}\n")
        for values, manifests in self.each():
            [container] = workload(manifests)["spec"]["template"]["spec"]["containers"]
            image = values.get("image", {})
            expected = f"{image.get('repository', 'segment-loops')}:{image.get('tag', version)}"
            self.assertEqual(container["image"], expected)

    def test_what_a_pod_mounts_and_reads_exists(self):
        for values, manifests in self.each():
            found = workload(manifests)
            pod = found["spec"]["template"]["spec"]
            [container] = pod["containers"]
            claims = {one["metadata"]["name"] for one in found["spec"].get("volumeClaimTemplates", [])}
            volumes = {one["name"]: one for one in pod["volumes"]}
            self.assertEqual({one["name"] for one in container["volumeMounts"]}, set(volumes) | claims)
            made = {one["metadata"]["name"]: one for one in of_kind(manifests, "Secret")}
            name = volumes["secret"]["secret"]["secretName"]
            secret = values["secret"]
            keys = made[name]["stringData"].keys() if "values" in secret else secret.get("keys", SECRETS.keys())
            self.assertEqual(name in made, "values" in secret)
            files = [one for one in container["env"] if one["name"].endswith("_FILE")]
            self.assertEqual({one["name"] for one in files}, {f"{key}_FILE" for key in keys})
            if "files" in volumes:
                [config] = of_kind(manifests, "ConfigMap")
                self.assertEqual(volumes["files"]["configMap"]["name"], config["metadata"]["name"])
                for argument in container["args"][1:]:
                    self.assertIn(argument.split("/etc/segment-loops/")[1], config["data"])
            accounts = {one["metadata"]["name"] for one in of_kind(manifests, "ServiceAccount")}
            self.assertLessEqual({pod["serviceAccountName"]}, accounts | {"mine"})

    def test_the_program_accepts_what_a_pod_gives_it(self):
        for values, manifests in self.each():
            [container] = workload(manifests)["spec"]["template"]["spec"]["containers"]
            with self.files(manifests, container) as (environment, arguments):
                run(PROGRAM, "check", "--offline", *arguments[1:], env=environment)

    @contextlib.contextmanager
    def files(self, manifests, container):
        """The environment and the arguments of a pod, with its files in a folder of this machine."""
        with tempfile.TemporaryDirectory() as folder:
            for config in of_kind(manifests, "ConfigMap"):
                for name, text in config["data"].items():
                    pathlib.Path(folder, name).write_text(text)
            environment = {}
            for variable in container["env"]:
                name, value = variable["name"], variable["value"]
                self.assertTrue(is_known(name), name)
                if name.endswith("_FILE"):
                    key = pathlib.Path(value).name
                    pathlib.Path(folder, key).write_text((SECRETS | DATABASE)[key])
                    value = f"{folder}/{key}"
                environment[name] = value
            yield environment, [argument.replace("/etc/segment-loops", folder) for argument in container["args"]]

    def test_litestream_copies_what_the_service_writes_and_owns_its_log(self):
        for values, manifests in self.each():
            pod = workload(manifests)["spec"]["template"]["spec"]
            [container] = pod["containers"]
            environment = {one["name"]: one["value"] for one in container["env"]}
            wanted = values.get("store", {}).get("sqlite", {}).get("litestream")
            if wanted is None:
                self.assertNotIn("initContainers", pod)
                self.assertNotIn("SEGMENT_LOOPS__STORE__WAL", environment)
                continue
            self.assertEqual(environment["SEGMENT_LOOPS__STORE__WAL"], "external")
            [sidecar] = pod["initContainers"]
            # With this, it is not waited for.
            self.assertEqual(sidecar["restartPolicy"], "Always")
            self.assertEqual(sidecar["image"], wanted["image"])
            self.assertEqual(sidecar["envFrom"], [{"secretRef": {"name": wanted["secret"]}}])
            mounts = {one["name"]: one["mountPath"] for one in sidecar["volumeMounts"]}
            self.assertEqual(mounts, {"files": "/etc/segment-loops", "data": "/data"})
            [config] = of_kind(manifests, "ConfigMap")
            folder, name = sidecar["args"][-1].rsplit("/", 1)
            self.assertEqual(folder, mounts["files"])
            [database] = yaml.safe_load(config["data"][name])["dbs"]
            self.assertEqual(database["path"], f"{mounts['data']}/segment-loops.db")

    def test_a_change_of_files_or_secrets_starts_new_pods(self):
        def annotations(values):
            return workload(render(values))["spec"]["template"]["metadata"]["annotations"]

        first = annotations({"secret": {"values": SECRETS}})
        self.assertEqual(first, annotations({"secret": {"values": SECRETS}}))
        changes = [
            {"secret": {"values": SECRETS | {"ADMIN_TOKEN": "other"}}},
            {"secret": {"values": SECRETS}, "subscriptions": "# none"},
        ]
        for change in changes:
            self.assertNotEqual(first, annotations(change))

    def test_senders_reach_only_what_is_for_senders(self):
        for values, manifests in self.each():
            for ingress in of_kind(manifests, "Ingress"):
                [rule] = ingress["spec"]["rules"]
                paths = [one["path"] for one in rule["http"]["paths"]]
                self.assertEqual(paths, ["/v1", "/beacon", "/webhook", "/destination", "/loops"])
                backends = {one["backend"]["service"]["name"] for one in rule["http"]["paths"]}
                self.assertEqual(backends, {"demo-segment-loops"})
            public, admin = of_kind(manifests, "Service")
            self.assertEqual([one["targetPort"] for one in public["spec"]["ports"]], ["http"])
            self.assertEqual([one["targetPort"] for one in admin["spec"]["ports"]], ["admin"])
            self.assertEqual(admin["spec"].get("type", "ClusterIP"), "ClusterIP")
            for policy in of_kind(manifests, "NetworkPolicy"):
                to_public, to_admin = policy["spec"]["ingress"]
                self.assertEqual([one["port"] for one in to_public["ports"]], ["http"])
                self.assertEqual([one["port"] for one in to_admin["ports"]], ["admin"])
                self.assertTrue(to_admin["from"])
                out = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
                asked = values.get("networkPolicy", {})
                engine = values.get("store", {}).get("engine")
                database = [asked.get("postgresPort", 5432)] if engine == "postgres" else []
                extra = [8443] if "extraEgress" in asked else []
                self.assertEqual(out, [443, 53, 53, *database, *extra])

    def test_probes_ask_at_the_port_for_operators(self):
        for _, manifests in self.each():
            [container] = workload(manifests)["spec"]["template"]["spec"]["containers"]
            probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
            self.assertEqual({one["port"] for one in probes.values()}, {"admin"})
            self.assertEqual([probes[kind]["path"] for kind in probes], ["/healthz", "/healthz", "/readyz"])
            ports = {one["name"]: one["containerPort"] for one in container["ports"]}
            environment = {one["name"]: one["value"] for one in container["env"]}
            self.assertEqual(environment["SEGMENT_LOOPS__SERVER__LISTEN"], f"0.0.0.0:{ports['http']}")
            self.assertEqual(environment["SEGMENT_LOOPS__SERVER__ADMIN_LISTEN"], f"0.0.0.0:{ports['admin']}")

    def test_alerts_and_dashboard_are_the_files_that_are_tested(self):
        manifests = render(MATRIX["everything that can be switched on"])
        [rules] = of_kind(manifests, "PrometheusRule")
        expected = (DEPLOY / "prometheus/segment-loops.rules.yml").read_text()
        expected = expected.replace("docs/runbook.md#", "https://wiki.example/segment-loops#")
        self.assertEqual(rules["spec"], yaml.safe_load(expected))
        [board] = of_kind(manifests, "ConfigMap")
        self.assertEqual(board["metadata"]["labels"]["grafana_dashboard"], "1")
        expected = json.loads((DEPLOY / "grafana/segment-loops.json").read_text())
        self.assertEqual(json.loads(board["data"]["segment-loops.json"]), expected)
        [monitor] = of_kind(manifests, "ServiceMonitor")
        _, admin = of_kind(manifests, "Service")
        self.assertLessEqual(monitor["spec"]["selector"]["matchLabels"].items(), admin["metadata"]["labels"].items())
        self.assertEqual(admin["metadata"]["labels"][monitor["spec"]["jobLabel"]], "segment-loops")
        self.assertEqual(monitor["spec"]["endpoints"][0]["port"], admin["spec"]["ports"][0]["name"])
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")

    def test_it_can_be_packaged(self):
        with tempfile.TemporaryDirectory() as folder:
            helm.package(str(CHART), destination=folder)
            [package] = os.listdir(folder)
            with helm.Chart.load(f"{folder}/{package}") as chart:
                rendered = chart.render(MATRIX["everything that can be switched on"], name="demo", namespace="prod")
                # The files that are links in the repository are in it.
                self.assertIn("SegmentLoopsDown", rendered["segment-loops/templates/monitoring.yaml"])
