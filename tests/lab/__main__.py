"""A long run: ``PYTHONPATH=tests python -m lab --seconds 60 --loop trio --seed 1``.

Prints one line for each kind of loop, or the rows of the table in docs/explanation/reliability.md
(``--table``). The exit status is 1 if something was lost.
"""

from __future__ import annotations

import argparse
import sys

from lab.lab import KINDS, pythons, run_for, until_seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="for each kind of loop")
    parser.add_argument("--loop", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="as rows of Markdown")
    options = parser.parse_args()
    lost = 0
    for name in KINDS if options.loop == "all" else [options.loop]:
        figures = run_for(name, options.seed, until_seconds(options.seconds))
        lost += len(figures.losses)
        if options.table:
            sys.stdout.write(f"| {pythons()} | {name} | {figures.row()} |\n")
        else:
            sys.stdout.write(f"{pythons()}, {name}, seed {options.seed}: {figures}\n")
        sys.stdout.writelines(f"  {loss}\n" for loss in figures.losses[:10])
        sys.stdout.flush()
    return min(lost, 1)


if __name__ == "__main__":
    sys.exit(main())
