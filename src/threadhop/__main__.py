"""``python -m threadhop check PATH…`` finds what goes wrong in blocks. It runs nothing."""

from __future__ import annotations

import argparse
import os
import sys

from ._check._command import check


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m threadhop")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    checker = commands.add_parser(
        "check",
        help="find what goes wrong in blocks",
        description="Find what goes wrong in blocks. Nothing is run. The exit status is 0 without "
        "findings, 1 with findings, 2 if a path does not exist or cannot be parsed.",
    )
    checker.add_argument("paths", nargs="+", metavar="PATH", help="a file, or a folder")
    try:
        status = check(parser.parse_args(arguments).paths)
        sys.stdout.flush()
    except BrokenPipeError:  # ``| head`` has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
