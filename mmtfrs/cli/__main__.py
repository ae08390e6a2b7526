"""`mmtfrs`, and `python -m mmtfrs.cli`."""

from __future__ import annotations

from mmtfrs.cli.import_faults import tell_import_faults
from mmtfrs.cli.stops import stopping


def main() -> None:
    """Runs the command line; it can be stopped from the first import on."""
    tell_import_faults()
    with stopping():
        from mmtfrs.cli.app import main as run

        run()


if __name__ == "__main__":
    main()
