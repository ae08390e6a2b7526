"""Search jobs for good settings: KerasTuner chooses, every trial trains in a process of its own."""

from importlib.util import find_spec

_MISSING = [name for name in ("keras_tuner", "sklearn", "scipy") if find_spec(name) is None]
if _MISSING:
    raise ImportError(f"tuning needs {', '.join(_MISSING)}: pip install 'mmtfrs[tuning]'")
