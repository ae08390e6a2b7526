"""`mmtfrs`, and `python -m mmtfrs.cli`."""

from __future__ import annotations

from mmtfrs.cli.stops import stopping


def main() -> None:
    """Runs the command line; it can be stopped from the first import on."""
    with stopping():
        from mmtfrs.cli.app import main as run

        run()


if __name__ == "__main__":
    main()
