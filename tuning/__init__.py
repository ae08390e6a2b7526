"""Search jobs for good settings: KerasTuner chooses, every trial trains in a process of its own."""

import sys
from importlib.util import find_spec

from mmtfrs.cli.stops import listen

if sys.argv[0] == "-m":  # `python -m tuning.search`: it can be stopped while all else is imported
    listen()

_MISSING = [name for name in ("keras_tuner", "sklearn") if find_spec(name) is None]
if _MISSING:
    _NEEDS = f"tuning needs {', '.join(_MISSING)}: pip install 'mmtfrs[tuning]'"
    if sys.argv[0] == "-m":  # a user's mistake is one line
        sys.exit(f"error: {_NEEDS}")
    raise ImportError(_NEEDS)
