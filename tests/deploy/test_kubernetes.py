"""The Helm chart, rendered and held against the schemas of Kubernetes, the Prometheus Operator and KEDA, and
against the service that it starts. A manifest that a cluster refuses, or a name that leads nowhere, would be
found by whoever deploys."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from fastapi.routing import APIRoute

from app import api
from app.settings import Settings
from tests.servers import program

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/kubernetes"
GPU = ("--values", str(CHART / "values-gpu.yaml"))
ALL = ("--set", "monitoring.enabled=true,monitoring.labels.release=watch,autoscaling.enabled=true")
KEYS = ("--set", "apiKeysSecret=derain-keys")
RENDERINGS = {
    "cpu": (),
    "gpu": GPU,
    "cpu with all": (*ALL, *KEYS, "--set", "service.type=LoadBalancer"),
    "gpu with all": (*GPU, *ALL, *KEYS),
}
CUSTOM = {"ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule, "ScaledObject": ScaledObject}
"""Models made from the custom resource definitions of these projects."""

Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program("helm")), *arguments], capture_output=True, text=True, timeout=120)


@cache
def render(*options: str) -> Sequence[Manifest]:
    done = helm("template", "rainless", str(CHART), "--namespace", "photographs", *options)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def kind(name: str, *options: str) -> Manifest:
    """The only one of its kind."""
    [found] = [manifest for manifest in render(*options) if manifest["kind"] == name]
    return found


def container(*options: str) -> Manifest:
    [found] = kind("Deployment", *options)["spec"]["template"]["spec"]["containers"]
    return found


def environment(*options: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(*options)["env"]}


@cache
def validate(manifest: str, version: str) -> None:
    """Against the schemas of a version of Kubernetes; no field may be there that they do not know."""
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


def selects(selector: Manifest, labels: Manifest) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


@pytest.mark.parametrize("options", RENDERINGS.values(), ids=RENDERINGS)
def test_a_cluster_takes_every_manifest(options: tuple[str, ...]) -> None:
    minimum = re.search(r">=(\d+\.\d+)", yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"])
    assert minimum is not None
    for manifest in render(*options):
        if model := CUSTOM.get(manifest["kind"]):
            # a field that the model does not know is lost on the way
            parsed = model.model_validate(manifest)
            assert parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) == manifest
        else:
            for version in (minimum[1], kubernetes_validate.latest_version()):
                validate(json.dumps(manifest), version)
        assert manifest["metadata"]["namespace"] == "photographs"


def test_schemas_refuse_what_is_misspelt() -> None:
    """Else the test before would prove nothing."""
    deployment = json.loads(json.dumps(kind("Deployment")))
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(json.dumps(deployment), "1.30")
    scaled = json.loads(json.dumps(kind("ScaledObject", *ALL)))
    scaled["spec"]["maxReplicas"] = 3
    dumped = ScaledObject.model_validate(scaled).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert dumped != scaled


def test_names_are_not_used_twice() -> None:
    for options in RENDERINGS.values():
        names = [(one["kind"], one["metadata"]["name"]) for one in render(*options)]
        assert len(set(names)) == len(names)


def test_lint_and_a_value_that_nothing_reads() -> None:
    assert helm("lint", "--strict", str(CHART)).returncode == 0
    assert helm("lint", "--strict", str(CHART), *GPU).returncode == 0
    for wrong in ("replica=3", "resources.limit.cpu=1", "env.DERAIN_METRICS_PORT=1", "autoscaling.busy=7"):
        refused = helm("template", str(CHART), "--set", wrong)
        assert refused.returncode != 0, wrong
        assert "schema" in refused.stderr, wrong


@pytest.mark.parametrize("options", RENDERINGS.values(), ids=RENDERINGS)
def test_every_selector_finds_the_pods_and_every_port_has_its_name(options: tuple[str, ...]) -> None:
    pod = kind("Deployment", *options)["spec"]["template"]
    labels = pod["metadata"]["labels"]
    ports = {port["name"] for port in container(*options)["ports"]}
    assert selects(kind("Deployment", *options)["spec"]["selector"]["matchLabels"], labels)
    assert selects(kind("PodDisruptionBudget", *options)["spec"]["selector"]["matchLabels"], labels)
    assert selects(kind("NetworkPolicy", *options)["spec"]["podSelector"]["matchLabels"], labels)
    for spread in pod["spec"]["topologySpreadConstraints"]:
        assert selects(spread["labelSelector"]["matchLabels"], labels)
    services = [one for one in render(*options) if one["kind"] == "Service"]
    for service in services:
        assert selects(service["spec"]["selector"], labels)
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    policy = kind("NetworkPolicy", *options)["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(*options)[probe]["httpGet"]["port"] in ports
    mounted = {mount["name"] for mount in container(*options)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_prometheus_scrapes_each_pod_once_under_the_name_that_the_rules_know() -> None:
    monitor = kind("ServiceMonitor", *ALL)
    services = [one for one in render(*ALL) if one["kind"] == "Service"]
    [service] = [
        one
        for one in services
        if selects(monitor["spec"]["selector"]["matchLabels"], one["metadata"]["labels"])
    ]
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    expressions = [
        rule["expr"]
        for one in render(*ALL)
        if one["kind"] == "PrometheusRule"
        for group in one["spec"]["groups"]
        for rule in group["rules"]
    ]
    jobs = {name for expression in expressions for name in re.findall(r'job="(\w+)"', expression)}
    assert jobs == {job}
    assert monitor["metadata"]["labels"]["release"] == "watch"


def test_the_rules_are_those_of_prometheus_itself() -> None:
    shipped = {
        path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob("deploy/prometheus/rules/*.yml")
    }
    assert shipped
    rendered = {
        one["metadata"]["name"].removeprefix("rainless-"): one["spec"]
        for one in render(*ALL)
        if one["kind"] == "PrometheusRule"
    }
    assert rendered == shipped


@pytest.mark.parametrize("options", RENDERINGS.values(), ids=RENDERINGS)
def test_probes_ask_for_what_the_service_answers(options: tuple[str, ...]) -> None:
    settings = dict(environment(*options))
    assert settings.pop("DERAIN_API_KEYS_FILE", None) == (
        "/etc/derain/keys.toml" if KEYS[1] in options else None
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        read = Settings()
    [operations] = [port for port in container(*options)["ports"] if port["name"] == "operations"]
    assert (read.metrics_port, read.metrics_host) == (operations["containerPort"], "0.0.0.0")
    paths = {route.path for route in api.probes.routes if isinstance(route, APIRoute)}
    for probe, path in (
        ("startupProbe", "/readyz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ):
        assert container(*options)[probe]["httpGet"]["path"] == path
        assert path in paths
    startup = container(*options)["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300, "as the image's own health check"


def test_the_port_is_that_of_the_image() -> None:
    exposed = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    [http] = [port["containerPort"] for port in container()["ports"] if port["name"] == "http"]
    assert exposed == [str(http)]


@pytest.mark.parametrize("deadline", [30, 300, 900])
def test_a_pod_that_leaves_has_time_for_what_it_has_taken_on(deadline: int) -> None:
    options = ("--set", f"deadlineSeconds={deadline}")
    pod = kind("Deployment", *options)["spec"]["template"]["spec"]
    assert float(environment(*options)["DERAIN_DEADLINE_SECONDS"]) == deadline
    waits = container(*options)["lifecycle"]["preStop"]["sleep"]["seconds"]
    # `derain serve` gives its last requests ten seconds more than the deadline
    assert pod["terminationGracePeriodSeconds"] >= waits + deadline + 10
    readiness = container(*options)["readinessProbe"]
    assert waits >= readiness["periodSeconds"], "as long as the others take to hear of it"


def test_the_default_deadline_is_the_services_own() -> None:
    assert float(environment()["DERAIN_DEADLINE_SECONDS"]) == Settings().deadline_seconds


@pytest.mark.parametrize("options", RENDERINGS.values(), ids=RENDERINGS)
def test_a_pod_has_no_rights_to_lose(options: tuple[str, ...]) -> None:
    pod = kind("Deployment", *options)["spec"]["template"]["spec"]
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001)
    assert re.search(r"^USER 10001\b", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(*options)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    for node in walk(pod):
        assert node.keys().isdisjoint(
            {"hostNetwork", "hostPID", "hostIPC", "hostPath", "hostPort", "privileged"}
        )
    # what the service writes, it writes to /tmp
    [scratch] = [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume]
    assert {"name": scratch, "mountPath": "/tmp"} in container(*options)["volumeMounts"]


def test_nobody_but_the_monitoring_reaches_metrics() -> None:
    policy = kind("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    [operations] = [rule for rule in policy["ingress"] if {"port": "operations"} in rule["ports"]]
    assert operations["from"]
    none = kind("NetworkPolicy", "--set-json", "networkPolicy.monitoring=[]")["spec"]["ingress"]
    assert [port["port"] for rule in none for port in rule["ports"]] == ["http"]


def test_resources_are_bounded_and_gpus_are_asked_for_where_there_are_some() -> None:
    for options in ((), GPU):
        resources = container(*options)["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"].keys() >= {"cpu", "memory"}
    assert "nvidia.com/gpu" not in container()["resources"]["limits"]
    assert container(*GPU)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container()["image"] != container(*GPU)["image"]
    # there may be no GPU for a pod more
    assert kind("Deployment", *GPU)["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    assert kind("Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_autoscaling_follows_the_backlog_of_this_release_alone() -> None:
    scaled = kind("ScaledObject", *ALL)["spec"]
    deployment = kind("Deployment", *ALL)
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"], "each would undo what the other does"
    assert kind("Deployment")["spec"]["replicas"] == 2
    queries = {trigger["name"]: trigger["metadata"]["query"] for trigger in scaled["triggers"]}
    assert queries["backlog"] == 'sum(derain_backlog_seconds{job="derain",namespace="photographs"})'
    exposed = (ROOT / "app/metrics.py").read_text()
    for query in queries.values():
        [series] = re.findall(r"derain_\w+", query)
        assert f'"{series.removesuffix("_total")}' in exposed, series
    assert all(float(trigger["metadata"]["threshold"]) > 0 for trigger in scaled["triggers"])
    assert scaled["minReplicaCount"] <= scaled["fallback"]["replicas"] <= scaled["maxReplicaCount"]


def test_queries_are_promql(tmp_path: Path) -> None:
    expressions = [
        {"record": f"checked:{index}", "expr": trigger["metadata"]["query"]}
        for index, trigger in enumerate(kind("ScaledObject", *ALL)["spec"]["triggers"])
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": expressions}]}))
    checked = subprocess.run(
        [program("promtool"), "check", "rules", rules], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr


def test_what_a_package_of_the_chart_holds_renders_the_same(tmp_path: Path) -> None:
    """The rules are a link in the repository, and must be files in what is published."""
    packed = helm("package", str(CHART), "--destination", str(tmp_path))
    assert packed.returncode == 0, packed.stderr
    [archive] = tmp_path.glob("*.tgz")
    done = helm("template", "rainless", str(archive), "--namespace", "photographs", *ALL)
    assert done.returncode == 0, done.stderr
    rendered = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    assert rendered == list(render(*ALL))
