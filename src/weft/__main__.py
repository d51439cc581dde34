"""``python -m weft``: the command, where its script is not on the path, or a launcher wants a module."""

from weft.cli import main

main()
