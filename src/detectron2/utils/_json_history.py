"""What a resumed run keeps of the metrics file that an earlier run wrote."""

from __future__ import annotations

import json

from detectron2.utils.files import atomic_write_text


def drop_superseded_lines(path: str, start_iter: int) -> int:
    """Remove from a file of JSON lines what a run from iteration `start_iter` writes again.

    A last line that a killed process left half written goes too. Lines of a run that starts
    at 0, and whole lines that are no JSON, are somebody else's and stay. A start of -1 is a
    resumed run that has to begin at 0 once more: what it wrote before goes.

    Returns:
        The newest iteration among the lines that stay, -1 without one.
    """
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    iterations = [_iteration(line) for line in lines]
    if start_iter != 0:
        kept = [line for line, at in zip(lines, iterations, strict=True) if at < start_iter]
        iterations = [at for at in iterations if at < start_iter]
        lines = kept
    if "".join(lines) != text:
        atomic_write_text(path, "".join(lines))
    return max(iterations, default=-1)


def _iteration(line: str) -> int:
    """-2, less than that of any run, for a line that is somebody else's."""
    try:
        entry = json.loads(line)
    except ValueError:
        return -2
    return int(entry.get("iteration", -2)) if isinstance(entry, dict) else -2
