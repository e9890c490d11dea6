"""`python -m litlab COMMAND`."""

from litlab.cli import main

main()
