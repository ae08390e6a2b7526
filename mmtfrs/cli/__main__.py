"""`python -m mmtfrs.cli`."""

from mmtfrs.cli.app import main

main()
