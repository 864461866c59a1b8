"""``_entries``: how a frame is told from others."""

from __future__ import annotations

from collections.abc import Generator
from types import FrameType
from typing import Any

from threadhop._entries import key_of

SOURCE = "def suspended():\n    yield\n"


def test_no_two_frames_that_are_alive_have_one_key() -> None:
    """Else the exit of a shared ``eventloop()`` may leave another entry than its own."""
    generators: list[Generator[Any, None, None]] = []
    for number in range(2_000):
        namespace: dict[str, Any] = {}
        exec(compile(SOURCE, f"<{number}>", "exec"), namespace)  # Each has a code of its own.
        generators.append(namespace["suspended"]())
        next(generators[-1])
    frames: list[FrameType] = [generator.gi_frame for generator in generators]
    assert len({key_of(frame) for frame in frames}) == len(frames)
