"""The files that start TF Serving: flags that it has, paths that are mounted, everything read-only."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

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
    assert sizes == sorted(sizes) and sizes[-1] == int(re.search(r"max_batch_size \{ value: (\d+) \}", text).group(1))
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


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_kubernetes(kind):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / "kubernetes" / kind)], capture_output=True, text=True, check=True
    )
    found = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    assert set(found) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    _check_flags(container["args"])
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    ports = {port["containerPort"] for port in container["ports"]}
    assert all(container[probe]["grpc"]["port"] in ports for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    assert "enable_grpc_healthcheck_service" in _flags(container["args"])
    assert all(mount["readOnly"] for mount in container["volumeMounts"]) and container["resources"]["requests"]["cpu"]
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["spec"]["securityContext"]["runAsNonRoot"]
    labels = pod["metadata"]["labels"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels.items()
    scaling = found["HorizontalPodAutoscaler"]["spec"]
    assert scaling["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert 1 < scaling["minReplicas"] < scaling["maxReplicas"]
    assert (container["resources"]["limits"].get("nvidia.com/gpu") == 1) == (kind == "gpu")
    assert container["image"] == "tensorflow/serving:2.16.1" + ("-gpu" if kind == "gpu" else "")
