"""Search jobs for good settings: KerasTuner chooses, every trial trains in a process of its own."""

import sys
from importlib.util import find_spec

from mmtfrs.cli.import_faults import tell_import_faults
from mmtfrs.cli.stops import listen
from mmtfrs.errors import SetupError

if sys.argv[0] == "-m":  # `python -m tuning.search`: it can be stopped while all else is imported
    listen()
    tell_import_faults()


def require() -> None:
    """Raises `SetupError`, which names the remedy, where what a search needs is not installed."""
    missing = [name for name in ("keras_tuner", "sklearn") if find_spec(name) is None]
    if missing:
        raise SetupError(f"tuning needs {', '.join(missing)}: pip install 'mmtfrs[tuning]'")
