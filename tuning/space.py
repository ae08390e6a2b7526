"""The search space, declared once, in data.

A setting is named as in the config, `section.key`, and is searched over a list of values or a range. The `tuning.space` section
of a config narrows, widens or fixes what stands here.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pydantic

from mmtfrs.config.config import Config
from mmtfrs.config.schema import FUSIONS
from mmtfrs.errors import ConfigError, TuningError, nearest

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a list of values."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        return self.values

    def describe(self) -> Any:
        return [list(value) if isinstance(value, tuple) else value for value in self.values]

    def codes(self) -> tuple[Any, ...]:
        """What stands for each value where only numbers or words of one type can."""
        kinds = {type(value) for value in self.values}
        return self.values if len(kinds) == 1 and kinds <= {int, float, str, bool} else tuple(map(_key, self.values))

    def code(self, value: Any) -> Any:
        return self.codes()[self._index(value)]

    def value(self, code: Any) -> Any:
        return self.values[self.codes().index(code)]

    def place(self, value: Any) -> float:
        """Where a value stands in the list, from 0 to 1."""
        return self._index(value) / (len(self.values) - 1)

    def _index(self, value: Any) -> int:
        return [_key(each) for each in self.values].index(_key(value))


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where the setting is. `scale` is linear or log."""

    low: float
    high: float
    scale: str = "linear"
    whole: bool = False

    def ends(self) -> tuple[Any, ...]:
        return self.low, self.high

    def code(self, value: Any) -> Any:
        return value

    def value(self, code: Any) -> Any:
        return code

    def place(self, value: Any) -> float:
        """Where a value stands between the ends, from 0 to 1."""
        scale = math.log if self.scale == "log" else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def describe(self) -> Any:
        return {"min": self.low, "max": self.high, "scale": self.scale}


# Depth and width in one: the hidden layers of a tower. Every fusion but voting, whose scores are no inner product.
DEFAULT: dict[str, Choice | Range] = {
    "model.fusion": Choice(tuple(name for name in FUSIONS if name != "late_voting")),
    "model.embedding_dim": Choice((32, 64, 128)),
    "model.hidden": Choice(((), (128,), (256,), (256, 128))),
    "model.feature_dim": Choice((64, 128, 256)),
    "model.dropout": Range(0.0, 0.5),
    "model.id_dropout": Range(0.1, 0.8),
    "model.history_id_dropout": Range(0.0, 0.8),
    "model.history_length": Choice((50, 200, 1000)),
    "model.history_encoder": Choice(("auto", "bag", "transformer")),
    "loss.name": Choice(("softmax", "bpr", "hinge")),
    "loss.negatives": Choice(("auto", "in_batch", "mixed")),
    "loss.temperature": Range(0.05, 0.5, "log"),
    "loss.user_balance": Range(0.0, 0.6),
    "training.learning_rate": Range(0.0005, 0.01, "log"),
    "training.batch_size": Choice((512, 1024, 2048)),
}
MODALITIES = "model.modalities"


class Space:
    """What a search may change, and the settings that it starts from.

    Args:
        config: base settings; its `tuning` section changes the default space.
        modalities: those that the data has; more than one makes which of them are used a choice of all and of all but one.
        items, events: how many the training part has. From the usual space is left out what makes no difference on so few, or
            cannot be with the base settings; never the base settings' own value. None: nothing is left out for it.

    Raises:
        TuningError: an unknown setting, an empty choice, a bad range, or a value that the setting does not take.
    """

    def __init__(
        self, config: Config, modalities: tuple[str, ...] = (), items: int | None = None, events: int | None = None
    ) -> None:
        self.base = config
        wanted = _usual(config, modalities, items, events) if config.tuning.defaults else {}
        if config.tuning.defaults and len(modalities) > 1:
            some = itertools.combinations(modalities, len(modalities) - 1)
            wanted[MODALITIES] = Choice((tuple(modalities), *some))
        fixed: Values = {}
        for name, given in config.tuning.space.items():
            where = f"tuning.space.{name}"
            _default_of(config, name)
            wanted.pop(name, None)
            if isinstance(given, list):
                if not given:
                    raise TuningError(f"`{where}` is an empty choice. Give one value or more.")
                wanted[name] = Choice(tuple(_plain(value) for value in given))
            elif isinstance(given, dict):
                wanted[name] = _range(where, given, _default_of(config, name))
            else:
                fixed[name] = given
        self.fixed = fixed
        self.parts = {name: part for name, part in wanted.items() if len(set(map(_key, part.ends()))) > 1}
        fixed |= {name: part.ends()[0] for name, part in wanted.items() if name not in self.parts}
        if not self.parts:
            raise TuningError("the space has nothing to search: every setting has one value. Widen `tuning.space`.")
        for name, value in (*fixed.items(), *((name, end) for name, part in self.parts.items() for end in part.ends())):
            try:
                self.config({name: value})
            except ConfigError as error:
                raise TuningError(f"`tuning.space.{name}` cannot be {value!r}: {error}") from None

    def config(self, values: Values) -> Config:
        """The base settings with what is fixed, and some values by their names."""
        settings = self.base.model_dump()
        for name, value in {**self.fixed, **values}.items():
            *path, last = name.split(".")
            section = settings
            for part in path:
                section = section[part]
            section[last] = _plain(value)
        settings["tuning"] = {}
        return Config(**settings)

    def default(self) -> Values:
        """The base settings' own values where the space has them, else the nearest that it has."""
        values = {}
        for name, part in self.parts.items():
            value = _default_of(self.base, name)
            if isinstance(part, Range):
                values[name] = min(max(value, part.low), part.high)
            else:
                same = [each for each in part.values if _key(each) == _key(value)]
                values[name] = (same or list(part.values))[0]
        return values

    def describe(self) -> dict[str, Any]:
        """Plain data: what is searched, and what is fixed."""
        return json.loads(json.dumps({name: part.describe() for name, part in self.parts.items()} | self.fixed))

    def __iter__(self) -> Iterator[tuple[str, Choice | Range]]:
        return iter(self.parts.items())


def _usual(config: Config, modalities: tuple[str, ...], items: int | None, events: int | None) -> dict[str, Choice | Range]:
    """The default space without what the base settings or the data rule out."""
    wanted = dict(DEFAULT)
    if not modalities:
        for name in ("model.fusion", "model.hidden", "model.feature_dim"):
            del wanted[name]
    out: dict[str, set] = {"model.fusion": set(), "model.history_encoder": set(), "loss.negatives": set()}
    if len(modalities) == 1:  # a late fusion of one modality is that modality
        out["model.fusion"] = {name for name in FUSIONS if name.startswith("late_")}
    if not (config.model.use_item_id and config.model.history_length):
        out["model.history_encoder"] = {"transformer"}
    if items is not None and items <= config.loss.uniform:  # every item at once is less work than so many draws
        out["loss.negatives"] = {"mixed"}
    if events is not None:  # a batch has all events at most
        out["training.batch_size"] = {size for size in (1024, 2048) if size // 2 >= events}
    for name, values in out.items():
        if name in wanted and values:
            kept = [each for each in wanted[name].ends() if each not in values or each == _default_of(config, name)]
            wanted[name] = Choice(tuple(kept))
    return wanted


def _plain(value: Any) -> Any:
    return tuple(_plain(each) for each in value) if isinstance(value, list | tuple) else value


def _key(value: Any) -> str:
    return json.dumps(value)


def _default_of(config: Config, name: str) -> Any:
    """The value of `section.key`. Raises `TuningError` for a name that no setting has."""
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, pydantic.BaseModel) or part not in type(value).model_fields:
            known = _names(config)
            raise TuningError(f"`tuning.space` has no setting `{name}` to search.{nearest(name, known)}")
        value = getattr(value, part)
    if isinstance(value, pydantic.BaseModel):
        raise TuningError(f"`tuning.space.{name}` is a section, not a setting. Name one of its keys.")
    return value


def _names(config: pydantic.BaseModel, prefix: str = "") -> list[str]:
    found = []
    for key in type(config).model_fields:
        value = getattr(config, key)
        found += _names(value, f"{prefix}{key}.") if isinstance(value, pydantic.BaseModel) else [prefix + key]
    return found


def _range(where: str, given: dict, default: Any) -> Range:
    unknown = set(given) - {"min", "max", "scale"}
    if unknown or not {"min", "max"} <= set(given):
        raise TuningError(f"`{where}` must be {{min: A, max: B}}, with scale: log if wanted. Received: {given}.")
    low, high, scale = given["min"], given["max"], given.get("scale", "linear")
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low, high))
    if not numbers or not low < high:
        raise TuningError(f"`{where}` must rise from min to max. Received: min {low}, max {high}.")
    if scale not in ("linear", "log") or (scale == "log" and low <= 0):
        raise TuningError(f"`{where}`: scale must be linear, or log with a min above 0. Received: {scale}, min {low}.")
    whole = isinstance(default, int) and not isinstance(default, bool)
    if whole and not (float(low).is_integer() and float(high).is_integer()):
        raise TuningError(f"`{where}` takes whole numbers. Received: min {low}, max {high}.")
    return Range(int(low), int(high), scale, True) if whole else Range(float(low), float(high), scale)
