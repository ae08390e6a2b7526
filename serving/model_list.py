"""Which models are served: one folder, or a models.config as TF Serving reads it."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from mmtfrs.errors import ExportError
from mmtfrs.exporting.versions import some_versions
from serving.served_model import ServedModel


def one_model(folder: str | Path, name: str | None = None) -> ServedModel:
    """The model of a folder, under its own name or another. Raises `ExportError` if it holds no version."""
    some_versions(folder)
    return ServedModel(name or Path(folder).resolve().name, folder)


def read_models(path: str | Path) -> list[ServedModel]:
    """The models of a models.config in protobuf's text format, with their version policies and labels; base paths are
    relative to the working directory.

    Raises:
        ExportError: the file cannot be read or is no such config, or a model has no version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ExportError(f"{path}: this is no models.config ({error}).") from None
    entries = parsed.model_config_list.config
    names = [entry.name for entry in entries]
    if not names or len(set(names)) < len(names) or not all(names):
        raise ExportError(f"{path}: needs one or more models with different names. Received: {', '.join(names) or 'none'}.")
    models = []
    for entry in entries:
        some_versions(entry.base_path)
        policy = entry.model_version_policy
        kind = policy.WhichOneof("policy_choice") or "latest"
        latest = max(policy.latest.num_versions, 1) if kind == "latest" else None
        only = frozenset(policy.specific.versions) if kind == "specific" else None
        models.append(ServedModel(entry.name, entry.base_path, latest, only, entry.version_labels))
    return models
