"""Remembering what a check found, so that the next start of a training is not slower for it.

A report is found again by the content of the annotation files and by name, size and time of
change of every image; what is known of an image, by the content of its file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.data.check.images import ImageFacts, inspect_images
from detectron2.data.check.report import CheckReport
from detectron2.utils.file_io import file_lock, get_cache_dir
from detectron2.utils.files import atomic_write_text

__all__ = ["Cache", "file_digest", "stamps_digest"]

logger = logging.getLogger(__name__)

# Change it when a check finds something else in the same files.
VERSION = 3

# After so many images the cache is written: a check that is interrupted goes on from there.
PART = 10_000
_BLOCK = 1 << 20  # bytes

Stamp = list[int]


def file_digest(path: str | Path) -> str:
    """Digest of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):  # hashlib.file_digest came with Python 3.11
            digest.update(block)
    return digest.hexdigest()


def stamps_digest(paths: Iterable[str]) -> str:
    """Digest of name, size and time of change of files; files that do not exist count, too."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path}\0{_stamp(path)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


class Cache:
    """Files in a folder; a folder that cannot be written to costs a line in the log, no more."""

    def __init__(self, folder: str | Path | None = None, enabled: bool = True) -> None:
        """
        Args:
            folder: None takes ``dataset_check`` below ``$FVCORE_CACHE``.
            enabled: False neither reads nor writes.
        """
        self.folder = Path(folder or os.path.join(get_cache_dir(), "dataset_check"))
        self.enabled = enabled

    def report(self, key: str) -> CheckReport | None:
        """The report of a key, if all the images are still as they were."""
        content = self._read(f"report-{key}.json")
        if content is None or stamps_digest(content["paths"]) != content["stamps"]:
            return None
        report = CheckReport.from_json(content["report"])
        report.from_cache = True
        return report

    def save_report(self, key: str, report: CheckReport, paths: Sequence[str]) -> None:
        """Remember a report of annotations with these images."""
        stamps = stamps_digest(paths)
        content = {"paths": list(paths), "stamps": stamps, "report": report.to_json()}
        self._write(f"report-{key}.json", content)

    @contextmanager
    def one_at_a_time(self, key: str) -> Iterator[None]:
        """While active, other processes wait that want to check the same; then they find a report.

        Without a folder to write to nobody would find one, and nobody waits.
        """
        lock = file_lock(str(self.folder / f"report-{key}")) if self.enabled else None
        try:
            if lock is not None:
                lock.acquire()
        except OSError:
            lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def image_facts(
        self, paths: Sequence[str], workers: int | None = None
    ) -> dict[str, ImageFacts]:
        """Facts of images by path; only files that are new or changed are read."""
        name = f"images-{_folder_key(paths)}.json"
        known = (self._read(name) or {"images": {}})["images"]
        stamps = {path: _stamp(path) for path in dict.fromkeys(paths)}
        facts = {
            path: ImageFacts(**known[path][1])
            for path, stamp in stamps.items()
            if path in known and stamp is not None and known[path][0] == stamp
        }
        by_digest = {}
        for _, fields in known.values():
            its = ImageFacts(**fields)
            by_digest[its.digest] = its
        fresh = [path for path in stamps if path not in facts]
        if len(fresh) > PART:
            logger.info("Looking at %d images.", len(fresh))
        for start in range(0, len(fresh), PART):
            part = fresh[start : start + PART]
            facts.update(inspect_images(part, by_digest.get, workers))
            known.update({path: [stamps[path], facts[path].to_json()] for path in part})
            self._write(name, {"images": known})
        return {path: facts[path] for path in stamps}

    def _read(self, name: str) -> Any:
        if not self.enabled:
            return None
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        is_ours = isinstance(content, dict) and content.get("version") == VERSION
        return content["content"] if is_ours else None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        if not self.enabled:
            return
        try:
            text = json.dumps({"version": VERSION, "content": content}, default=str)
            atomic_write_text(self.folder / name, text)
        except OSError as error:
            logger.warning("The check of the dataset cannot be remembered: %s", error)


def _folder_key(paths: Sequence[str]) -> str:
    folder = os.path.dirname(paths[0]) if paths else ""
    return hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:24]
