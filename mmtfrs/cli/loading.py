"""What the commands take, read the same way by all of them: settings with their overrides, tables, a split log, features."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mmtfrs.cli.console import note, warn
from mmtfrs.config.config import Config
from mmtfrs.config.schema import MODALITIES
from mmtfrs.data.catalog import Catalog
from mmtfrs.data.events import Events
from mmtfrs.data.media_table import VIDEO
from mmtfrs.data.splits import Split
from mmtfrs.data.users import Users
from mmtfrs.encoders.names import check_name
from mmtfrs.utils.files import check_writable

if TYPE_CHECKING:
    from mmtfrs.features.features import Features


def read_settings(
    path: Path | None,
    seed: int | None = None,
    image: str | None = None,
    text: str | None = None,
    audio: str | None = None,
    features: list[str] | None = None,
) -> Config:
    """The config file, or the defaults, under what the command line says."""
    settings = Config.read(path) if path is not None else Config()
    encoders = {name: value for name, value in (("image", image), ("text", text), ("audio", audio)) if value}
    own = dict(pair.partition("=")[::2] for pair in features or [])
    if "" in {*own, *own.values()}:
        raise typer.BadParameter("must be NAME=FILE.npy.", param_hint="--features")
    data = {"features": {**settings.data.features, **own}}
    return settings.replace(encoders=encoders, data=data, **({} if seed is None else {"seed": seed}))


def read_items(items: Path, users: Path | None, settings: Config) -> tuple[Catalog, Users | None]:
    """Catalog and users; prints warnings."""
    note(f"reading {items} ...")
    catalog = Catalog.read(items, settings)
    people = Users.read(users, settings) if users is not None else None
    for table in (catalog, people):
        warn(table.problems if table is not None else [])
    return catalog, people


def check_out(out: Path, hold: Callable[[Path], AbstractContextManager]) -> None:
    """Raises `mmtfrs.Error` for a folder that cannot be written to, or that another process holds, before anything is read."""
    check_writable(out)
    if out.is_dir():
        with hold(out):
            pass


def read_split(events: Path, settings: Config, catalog: Catalog) -> Split:
    """The split log; prints warnings."""
    log = Events.read(events, settings, catalog)
    warn(log.problems)
    data = settings.data
    return log.split(data.split, data.validation_share, data.test_share, seed=settings.seed)


def check_encoders(catalog: Catalog, people: Users | None, settings: Config) -> None:
    """Raises `EncoderError` for encoders that there are not, of what items and users carry."""
    carried = {name for table in (catalog, people) if table is not None for name in table.modalities}
    if VIDEO in carried:
        carried |= {"image", "audio"}
    for modality in carried & {*MODALITIES} - {*settings.data.features}:
        if settings.model.modalities is None or modality in settings.model.modalities:
            check_name(modality, getattr(settings.encoders, modality))


def extract_features(
    catalog: Catalog, people: Users | None, settings: Config, store: Path, strict: bool, progress: bool
) -> Features:
    """Features of catalog and users; media that were set aside are told."""
    check_encoders(catalog, people, settings)
    from mmtfrs.features.extract import extract

    features = extract(catalog, settings, store, people, strict, progress)
    for reject in features.rejects:
        note(f"set aside: {reject.table} {reject.id}: {reject.modality} {reject.medium}: {reject.reason}")
    if features.rejects:
        listed = f"; see {store / 'rejects.csv'}" if os.access(store, os.W_OK) else ""  # a read-only store keeps no list
        note(f"{len(features.rejects)} media were set aside and count as absent{listed}")
    return features
