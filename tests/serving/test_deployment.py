"""The files that start TF Serving: flags that it has, paths that are mounted, everything read-only."""

from __future__ import annotations

import copy
import functools
import operator
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.limits import MAX_ROWS

FOLDER = ROOT / "serving"
# Of tensorflow_model_server 2.16, `main.cc`.
FLAGS = {
    "port",
    "rest_api_port",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "file_system_poll_wait_seconds",
    "enable_batching",
    "batching_parameters_file",
    "monitoring_config_file",
    "enable_grpc_healthcheck_service",
    "grpc_channel_arguments",
    "model_name",
    "model_base_path",
    "ssl_config_file",
    "per_process_gpu_memory_fraction",
}
CONFIGS = {"models.config", "batching.config", "monitoring.config"}


def _flags(arguments):
    return dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)


def _check_flags(arguments):
    flags = _flags(arguments)
    assert set(flags) <= FLAGS
    assert {path.removeprefix("/config/") for path in flags.values() if path.startswith("/config/")} == CONFIGS
    assert flags["port"] == "8500" and "enable_batching" in flags


def test_models_config_is_what_tf_serving_takes():
    parsed = text_format.Parse((FOLDER / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    (entry,) = parsed.model_config_list.config
    assert entry.name == "demo" and entry.base_path == "/models/demo"  # TF Serving refuses relative paths
    assert entry.model_platform == "tensorflow" and entry.model_version_policy.latest.num_versions == 2


def test_batching_config_fits_the_signatures():
    text = (FOLDER / "batching.config").read_text()
    sizes = [int(size) for size in re.findall(r"^allowed_batch_sizes: (\d+)", text, re.M)]
    # TF Serving refuses sizes that do not rise to the largest batch; lists of different lengths need padding.
    assert (
        sizes == sorted(sizes) and sizes[-1] == int(re.search(r"max_batch_size \{ value: (\d+) \}", text).group(1)) == MAX_ROWS
    )
    assert "pad_variable_length_inputs: true" in text


def test_compose():
    found = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert set(found["services"]) == {"serving", "serving-gpu"}
    for name, service in found["services"].items():
        _check_flags(service["command"])
        mounts = [volume.rsplit(":", 2) for volume in service["volumes"]]
        assert all(mode == "ro" for _, _, mode in mounts) and service["read_only"] is True
        for source, target, _ in mounts:
            if target.startswith("/config/"):
                assert (FOLDER / source).is_file() and target == f"/config/{source.removeprefix('./')}"
        assert service["image"].endswith("-gpu") == (name == "serving-gpu")
        assert "8500" in service["healthcheck"]["test"][-1] and service["deploy"]["resources"]["limits"]["memory"]
        for port in ("8500", "8501"):
            assert f"${{LISTEN:-127.0.0.1}}:{port}:{port}" in service["ports"]  # nobody else's, unless told


def _kustomized(kind):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    command = ["kubectl", "kustomize", str(FOLDER / "kubernetes" / kind)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_kubernetes(kind):
    found = {document["kind"]: document for document in _kustomized(kind)}
    # On a GPU the time of the CPUs says nothing about the load.
    assert set(found) == {"Deployment", "Service", "PodDisruptionBudget"} | (
        {"HorizontalPodAutoscaler"} if kind == "cpu" else set()
    )
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    _check_flags(container["args"])
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    ports = {port["containerPort"] for port in container["ports"]}
    assert all(container[probe]["grpc"]["port"] in ports for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    assert "enable_grpc_healthcheck_service" in _flags(container["args"])
    assert all(mount["readOnly"] for mount in container["volumeMounts"]) and container["resources"]["requests"]["cpu"]
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["spec"]["securityContext"]["runAsNonRoot"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname" and spread["maxSkew"] == 1
    labels = pod["metadata"]["labels"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels.items()
    rollout = found["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    if kind == "cpu":
        scaling = found["HorizontalPodAutoscaler"]["spec"]
        assert scaling["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
        assert 1 < scaling["minReplicas"] < scaling["maxReplicas"]
        assert rollout == {"maxUnavailable": 0, "maxSurge": 1}
        assert "replicas" not in found["Deployment"]["spec"]  # else each `apply` undoes what the autoscaler did
    else:
        assert rollout == {"maxUnavailable": 1, "maxSurge": 0}  # no GPU need be spare
        # One pod serves on while a rollout or a drained node takes the other.
        assert found["Deployment"]["spec"]["replicas"] > found["PodDisruptionBudget"]["spec"]["minAvailable"] == 1
    assert (container["resources"]["limits"].get("nvidia.com/gpu") == 1) == (kind == "gpu")
    assert container["image"] == "tensorflow/serving:2.16.1" + ("-gpu" if kind == "gpu" else "")


@pytest.mark.parametrize("source", ["files", "cpu", "gpu"])
def test_kubernetes_manifests_fit_the_schemas(source):
    if source == "files":
        paths = [path for path in (FOLDER / "kubernetes").rglob("*.yaml") if path.name != "kustomization.yaml"]
        documents = [document for path in paths for document in yaml.safe_load_all(path.read_text())]
        assert len(documents) == 4
    else:
        documents = _kustomized(source)
    # The first version with probes by gRPC for everybody, and the newest that the schemas know.
    for version in ("1.27", kubernetes_validate.latest_version()):
        assert not [misfit for document in documents for misfit in _misfits(document, version)]
    for place in (("spec",), ("spec", "template", "spec"), ("spec", "template", "spec", "topologySpreadConstraints", 0)):
        misspelled = copy.deepcopy(next(document for document in documents if document["kind"] == "Deployment"))
        functools.reduce(operator.getitem, place, misspelled)["maxSkw"] = 1
        (misfit,) = _misfits(misspelled, "1.27")
        assert "'maxSkw' was unexpected" in misfit


def _misfits(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:  # its whole text has the schema: a thousand lines
        return [f"{document['kind']} {'.'.join(map(str, error.absolute_path))}: {error.message}"]
    return []
