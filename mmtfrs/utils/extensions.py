"""Parts of a user's own, named by where they are imported from: `package.module:Name`."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from mmtfrs.errors import ConfigError, Error, first_line

PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


def is_import_path(name: str) -> bool:
    """Whether a name says where it is imported from."""
    return re.match(PATTERN, name) is not None


def check_trusted(source: Any, code: Mapping[str, str], trust_code: bool, error: type[Error]) -> None:
    """Raises an error where somebody else's folder names code, `{setting: import path}`, and the user has not said to trust it:
    to import a module is to run it."""
    if code and not trust_code:
        named = ", ".join(f"{path} (`{setting}`)" for setting, path in code.items())
        raise error(
            f"{source}: names code that would be imported and run here: {named}. If you trust who made it, say --trust-code "
            "(in Python: trust_code=True)."
        )


def imported(path: str, setting: str) -> Any:
    """What stands at `package.module:Name`. Raises `ConfigError`, which names the setting, if it is not there.

    Only from here on is the working folder a place of modules, behind all that is installed: a stranger's files, among which a
    command is started, are not imported because a library looks for something optional.
    """
    module, _, name = path.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's module does when it is imported
        raise ConfigError(f"`{setting}` {path}: {module} cannot be imported ({first_line(error)}).") from error
    if not hasattr(found, name):
        raise ConfigError(f"`{setting}` {path}: {module} has no {name}.")
    return getattr(found, name)
