"""The manifests of Kubernetes: valid by its published schemas, and safe in what they ask for."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.33", kubernetes_validate.latest_version())


def documents(*files: str) -> list[dict[str, Any]]:
    return [each for file in files for each in yaml.safe_load_all((FOLDER / file).read_text())]


PLAIN = documents("server.yaml", "models.yaml")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", PLAIN, ids=lambda each: each["kind"])
def test_kubernetes_takes_every_manifest(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    spoilt = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spoilt, VERSIONS[0], strict=True)


DEPLOYMENT = next(each for each in PLAIN if each["kind"] == "Deployment")


def containers() -> list[dict[str, Any]]:
    pods = [each["spec"]["template"]["spec"] for each in PLAIN if "template" in each["spec"]]
    runtimes = [each["spec"] for each in documents("kserve.yaml") if "containers" in each["spec"]]
    return [container for pod in (*pods, *runtimes) for container in pod["containers"]]


def test_no_container_may_write_its_root_gain_rights_or_take_memory_without_limit() -> None:
    assert len(containers()) == 3
    for container in containers():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_no_service_of_the_namespace_sets_a_variable_of_a_server() -> None:
    # A Service `forwardpass` would set FORWARDPASS_PORT=tcp://..., and there is one.
    runtime, inference = documents("kserve.yaml")
    pods = [each["spec"]["template"]["spec"] for each in PLAIN if "template" in each["spec"]]
    for pod in (*pods, inference["spec"]["predictor"]):
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
    (scaler,) = (each for each in PLAIN if each["kind"] == "HorizontalPodAutoscaler")
    assert 0 < age_s <= scaler["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]


def test_the_scaler_alone_decides_how_many_servers_there_are() -> None:
    assert "replicas" not in DEPLOYMENT["spec"]


def test_a_server_that_is_late_to_a_probe_is_left_in() -> None:
    probes = [each["readinessProbe"] for each in containers() if "readinessProbe" in each]
    # Kubernetes' default is 1 s: one late answer on a busy node would be enough.
    assert [probe["timeoutSeconds"] for probe in probes] == [5, 5]


def test_services_budget_and_scaler_are_about_the_pods_of_the_deployment() -> None:
    by_kind = {each["kind"]: each for each in PLAIN}
    deployment = by_kind["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    services = [each for each in PLAIN if each["kind"] == "Service"]
    assert [each["spec"].get("clusterIP") for each in services] == [None, "None"]
    assert all(each["spec"]["selector"] == labels for each in services)
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    scaled = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])
