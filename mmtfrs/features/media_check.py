"""Decoding every medium of a table without encoding it: what `mmtfrs check` says about files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmtfrs.config.config import Config
from mmtfrs.config.schema import Modality
from mmtfrs.data.media_table import VIDEO, MediaTable
from mmtfrs.data.problems import Problems
from mmtfrs.data.table_reader import first_row
from mmtfrs.errors import MediaError
from mmtfrs.media.decode import decode_audio, open_image, read_file, real_path
from mmtfrs.media.video import sample_frames
from mmtfrs.utils.prefetch import ahead
from mmtfrs.utils.progress import progress_bar


def check_media(table: MediaTable, config: Config, progress: bool = True) -> Problems:
    """Tries every image, audio and video, in threads and bounded memory; each that fails is a warning with its row."""
    bounds = config.extraction
    problems = Problems()
    file = table.path if table.path is not None else "the given columns"
    first = first_row(table.path) if table.path is not None else 1
    with ThreadPoolExecutor(bounds.workers) as pool:
        for modality in ("image", "audio", VIDEO):
            if not table.count(modality):
                continue
            media = enumerate(table.media(0, len(table), modality))
            tasks = ((row, (modality, medium, config)) for row, medium in media if medium)
            with progress_bar(f"{table.section}: {modality}", table.count(modality), progress) as advance:
                for row, reason in ahead(pool, _reason, tasks, 4 * bounds.workers):
                    advance(1)
                    if reason:
                        name = table.table.column(modality)[row].as_py()
                        problems.warning(
                            file, np.array([row + first]), f"{modality} {name!r}: {reason}.", "Set aside; it counts as absent."
                        )
    return problems


def _reason(modality: Modality, path: str, config: Config) -> str:
    """Why a medium cannot be used, or ""."""
    bounds = config.extraction
    try:
        data = read_file(Path(real_path(path, config.data.media_root)), bounds.max_bytes)
        if modality == VIDEO:
            sample_frames(data, lambda frame: np.asarray(frame.resize((64, 64))), bounds)
        elif modality == "image":
            open_image(data, bounds.max_pixels, draft=512)
        else:
            decode_audio(data, bounds.max_seconds)
    except MediaError as error:
        return str(error)
    return ""
