"""A long run: ``PYTHONPATH=tests python -m lab --seconds 60 --loop trio --seed 1``.

Prints one line for each kind of loop, or a row of a table (``--table``). The last one is the sum:
docs/explanation/reliability.md has that of each Python. The exit status is 1 if something was lost.
"""

from __future__ import annotations

import argparse
import sys

from lab.lab import KINDS, Figures, pythons, run_for, until_seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="for each kind of loop")
    parser.add_argument("--loop", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="as rows of Markdown")
    options = parser.parse_args()
    names = [*KINDS] if options.loop == "all" else [options.loop]
    total = Figures()
    for name in names:
        figures = run_for(name, options.seed, until_seconds(options.seconds))
        total.add(figures)
        _tell(name, figures, options)
        sys.stdout.writelines(f"  {loss}\n" for loss in figures.losses[:10])
    if len(names) > 1:
        _tell(f"{len(names)} kinds", total, options)
    return min(len(total.losses), 1)


def _tell(name: str, figures: Figures, options: argparse.Namespace) -> None:
    if options.table:
        sys.stdout.write(f"| {pythons()} | {name} | {figures.row()} |\n")
    else:
        sys.stdout.write(f"{pythons()}, {name}, seed {options.seed}: {figures}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
