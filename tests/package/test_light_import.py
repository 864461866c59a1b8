"""``import threadhop`` costs little and asks for nothing that is not in use."""

from __future__ import annotations

from helpers.child import run_in_child

#: An asyncio program with threads has loaded these anyway.
BASELINE = "import asyncio, concurrent.futures.thread, typing"

#: Small modules of the standard library, which may come in addition.
SMALL = {"__future__", "copy", "gc"}


def test_the_import_asks_for_no_optional_library() -> None:
    """An attempt alone costs time where the library is installed."""
    child = run_in_child(
        """
        import sys

        OPTIONAL = {"anyio", "sniffio", "trio", "uvloop"}
        asked_for = []

        class Witness:
            def find_spec(self, name, path=None, target=None):
                asked_for.append(name)

        sys.meta_path.insert(0, Witness())
        import threadhop

        assert "threadhop" in asked_for, "the witness saw nothing"
        print(*(name for name in asked_for if name.partition(".")[0] in OPTIONAL))
        """
    )
    assert (child.returncode, child.stdout.split()) == (0, []), child.stderr


def test_the_import_loads_nothing_but_itself() -> None:
    """Beside what is loaded anyway, and small modules, it loads modules of this package only."""
    child = run_in_child(
        f"""
        import sys
        {BASELINE}

        before = set(sys.modules)
        import threadhop

        assert "threadhop" in sys.modules.keys() - before, "it was loaded already"
        print(*(name for name in sys.modules.keys() - before if "threadhop" not in name))
        """
    )
    assert child.returncode == 0, child.stderr
    assert set(child.stdout.split()) <= SMALL
