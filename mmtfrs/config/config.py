"""A run's settings: frozen, typed, unknown keys refused, read from YAML, written beside every model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydantic
import yaml

from mmtfrs.config.schema import (
    BASELINES,
    MODALITIES,
    DataConfig,
    EncodersConfig,
    EvaluationConfig,
    ExportConfig,
    ExtractionConfig,
    LossConfig,
    ModelConfig,
    Section,
    TrainingConfig,
    TuningConfig,
    metric,
)
from mmtfrs.errors import ConfigError, nearest
from mmtfrs.utils.files import replacing


class Config(Section):
    """Every setting of a run.

    Example:
        >>> Config(model={"fusion": "attention"}).model.fusion
        'attention'
    """

    seed: int = 42
    data: DataConfig = DataConfig()
    encoders: EncodersConfig = EncodersConfig()
    extraction: ExtractionConfig = ExtractionConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    tuning: TuningConfig = TuningConfig()

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except pydantic.ValidationError as error:
            raise ConfigError(_explain(error)) from None

    @classmethod
    def read(cls, path: str | Path) -> Config:
        """Reads a YAML file. Raises `ConfigError` for a missing file, bad YAML, unknown keys or bad values."""
        path = Path(path)
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the config file cannot be read ({error}).") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: this is not valid YAML: {error}") from None
        if settings is None:
            settings = {}
        if not isinstance(settings, dict):
            raise ConfigError(f"{path}: must hold `key: value` pairs. Received: {type(settings).__name__}.")
        try:
            return cls(**settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def write(self, path: str | Path) -> None:
        """Writes every setting, defaults too, as YAML that `read` takes back. Raises `WriteError`."""
        with replacing(path) as file:
            file.write(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False).encode())

    def replace(self, **sections: dict[str, Any] | int) -> Config:
        """A copy with some settings changed, as `replace(model={"fusion": "attention"}, seed=1)`."""
        settings = self.model_dump()
        for name, value in sections.items():
            if isinstance(value, dict) and isinstance(settings.get(name), dict):
                settings[name] = {**settings[name], **value}
            else:
                settings[name] = value
        return type(self)(**settings)

    def differences(self, other: Config) -> list[str]:
        """`section.key: ours -> theirs` for every setting in which the two differ."""
        return _differences(self.model_dump(mode="json"), other.model_dump(mode="json"))


def check_metric(value: str) -> None:
    """Raises `ConfigError` for what is no `METRIC@K`."""
    try:
        metric(value)
    except ValueError as error:
        raise ConfigError(f"metric `{value}` {error}") from None


def check_baselines(names: Iterable[str], modalities: Iterable[str]) -> None:
    """Raises `ConfigError` for what is no baseline of a model that has these modalities."""
    known = (*BASELINES, *dict.fromkeys((*MODALITIES, *modalities)))
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown baseline `{name}`.{nearest(name, known)} Known: popularity, {', '.join(known)}.")


def _differences(ours: dict, theirs: dict, prefix: str = "") -> list[str]:
    lines = []
    for key in {**ours, **theirs}:
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(other, dict) and one and other:
            lines += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            lines.append(f"{prefix}{key}: {one} -> {other}")
    return lines


def _explain(error: pydantic.ValidationError) -> str:
    """Every problem in one message; an unknown key comes with the nearest known one."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            section: Any = Config
            for part in problem["loc"][:-1]:
                section = section.model_fields[part].annotation
            known = list(section.model_fields)
            hint = nearest(str(problem["loc"][-1]), known) or f" Known keys: {', '.join(known)}."
            lines.append(f"unknown setting `{where}`.{hint}")
        elif problem["type"] == "literal_error":
            names = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
            hint = nearest(str(problem["input"]), names)
            lines.append(f"`{where}` must be one of {', '.join(names)}. Received: {problem['input']!r}.{hint}")
        elif problem["type"] == "value_error":
            lines.append(f"`{where}` {problem['ctx']['error']}")
        else:
            lines.append(f"`{where}`: {problem['msg']}. Received: {problem['input']!r}.")
    return "\n".join(lines)
