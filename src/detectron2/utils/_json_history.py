"""What a resumed run keeps of the metrics file that an earlier run wrote."""

from __future__ import annotations

import json

from detectron2.utils.files import atomic_write_text


def drop_superseded_lines(path: str, start_iter: int) -> None:
    """Remove from a file of JSON lines what a run from iteration `start_iter` writes again.

    A last line that a killed process left half written goes too. Lines of a run that starts
    at 0, and whole lines that are no JSON, are somebody else's and stay. A start of -1 is a
    resumed run that has to begin at 0 once more: what it wrote before goes.
    """
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    kept = "".join(line for line in text.splitlines(keepends=True) if _stays(line, start_iter))
    if kept != text:
        atomic_write_text(path, kept)


def _stays(line: str, start_iter: int) -> bool:
    if not line.endswith("\n"):
        return False
    try:
        entry = json.loads(line)
    except ValueError:
        return True
    if start_iter == 0 or not isinstance(entry, dict):
        return True
    return bool(entry.get("iteration", -1) < start_iter)
