"""One way to open files: local paths, web addresses, the model zoo and object stores.

``PathManager.open("detectron2://...")`` and its siblings work wherever the library reads a file.
"""

from __future__ import annotations

from typing import Any

from iopath.common.file_io import (
    HTTPURLHandler,
    OneDrivePathHandler,
    PathHandler,
)
from iopath.common.file_io import PathManager as _PathManagerClass

__all__ = ["PathHandler", "PathManager"]

ZOO_ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"

PathManager = _PathManagerClass()


class ZooHandler(PathHandler):
    """``detectron2://NAME``: the file NAME on the server of the model zoo."""

    PREFIX = "detectron2://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return PathManager.get_local_path(self._address(path), force=force, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._address(path), mode, buffering=buffering, **kwargs)

    def _address(self, path: str) -> str:
        return ZOO_ADDRESS + path[len(self.PREFIX) :]


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(OneDrivePathHandler())
PathManager.register_handler(ZooHandler())
