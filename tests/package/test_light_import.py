"""``import threadhop`` costs little and asks for nothing that is not in use."""

from __future__ import annotations

from helpers.child import run_in_child

#: An asyncio program with threads has loaded these anyway.
BASELINE = "import asyncio, concurrent.futures.thread, typing"

#: Small modules of the standard library, which may come in addition.
SMALL = {"__future__", "copy", "dataclasses", "gc"}


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


def test_blocks_and_calls_run_where_no_other_library_is_installed() -> None:
    child = run_in_child(
        """
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {"anyio", "sniffio", "trio", "uvloop"}:
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Blocker())
        import asyncio, threading
        from threadhop import *

        async def double(number):
            await asyncio.sleep(0)
            return 2 * number

        async def main():
            here = threading.get_ident()
            async with threadpool():
                assert threading.get_ident() != here
                async with eventloop():
                    assert threading.get_ident() == here
                assert exec_in_eventloop(double, 1) == 2
            assert await exec_in_executor(None, double, 2) == 4
            async with AsyncExecutor(WorkerPool(1)) as executor:
                assert await executor.run(str, 1) == "1"
                try:
                    async with asyncio.timeout(0.01), threadpool(executor.wrapped):
                        while True:
                            check_cancelled()
                except TimeoutError:
                    print("cancelled")

        for _ in range(2):
            asyncio.run(main())
            sys.modules["trio"] = None  # another way to say so
        try:
            threadpool().__aenter__()
        except RuntimeError as error:
            print("trio.run(main)" in str(error))
        """
    )
    assert (child.stdout, child.stderr) == ("cancelled\ncancelled\nTrue\n", "")


def test_the_import_loads_nothing_but_itself() -> None:
    """Beside what is loaded anyway, and small modules: this package only, without its checker."""
    child = run_in_child(
        f"""
        import sys
        {BASELINE}

        before = set(sys.modules)
        import threadhop

        assert "threadhop" in sys.modules.keys() - before, "it was loaded already"
        loaded = sys.modules.keys() - before
        print(*(name for name in loaded if "threadhop" not in name or "_check" in name))
        """
    )
    assert child.returncode == 0, child.stderr
    assert set(child.stdout.split()) <= SMALL
