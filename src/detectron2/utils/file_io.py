"""One way to open files: local paths, web addresses, the model zoo and object stores.

``PathManager.open("detectron2://...")`` and its siblings work wherever this library reads a file.
Remote files are kept in ``$FVCORE_CACHE`` (``~/.torch/iopath_cache``).
"""

from __future__ import annotations

import hashlib
import os
from typing import Any
from urllib.parse import urlparse

from iopath.common.file_io import (
    HTTPURLHandler,
    OneDrivePathHandler,
    PathHandler,
    file_lock,
    get_cache_dir,
)
from iopath.common.file_io import PathManager as _PathManagerClass

from detectron2.utils._download import DownloadError, download, hash_in_name

__all__ = ["DownloadError", "PathHandler", "PathManager"]

ZOO_ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"

PathManager = _PathManagerClass()


class WebHandler(HTTPURLHandler):
    """``http://``, ``https://``, ``ftp://``: files are downloaded once and kept.

    They have the same place in the cache as iopath gives them. A broken download is resumed, and
    files of the model zoo are checked against the hash in their name.
    """

    def _get_local_path(
        self,
        path: str,
        force: bool = False,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Path of the downloaded file.

        Args:
            force: download it again.

        Raises:
            DownloadError: it cannot be downloaded or is damaged.
        """
        self._check_kwargs(kwargs)
        cached = self.cache_map.get(path, "")
        if force or not os.path.exists(cached):
            cached = _cached_file(path, get_cache_dir(cache_dir))
            with file_lock(cached):
                if force or not os.path.isfile(cached):
                    name = os.path.basename(cached)
                    # Only there do digits at the end of a name mean a hash.
                    expected = hash_in_name(name) if path.startswith(ZOO_ADDRESS) else ""
                    download(path, cached, expected)
            self.cache_map[path] = cached
        return cached

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            return os.path.isfile(self._get_local_path(path, **kwargs))
        except DownloadError:
            return False

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path, **kwargs)

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return False


def _cached_file(url: str, cache_dir: str) -> str:
    parsed = urlparse(url)
    folder, name = os.path.split(parsed.path.lstrip("/"))
    stem, extension = os.path.splitext(name)
    if parsed.query:  # the same path with other parameters is another file
        stem += "_" + hashlib.sha256(parsed.query.encode()).hexdigest()[:12]
    if len(stem) > 200:
        stem = stem[:100] + hashlib.sha256(stem.encode()).hexdigest()[:16]
    return os.path.join(cache_dir, folder, (stem or "index") + extension)


class OneDriveHandler(OneDrivePathHandler, WebHandler):
    """``https://1drv.ms/u/s!...``: files shared on OneDrive."""


class ZooHandler(PathHandler):
    """``detectron2://NAME``: the file NAME on the server of the model zoo."""

    PREFIX = "detectron2://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return PathManager.get_local_path(self._address(path), force=force, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._address(path), mode, buffering=buffering, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return PathManager.isfile(self._address(path), **kwargs)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return PathManager.exists(self._address(path), **kwargs)

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return False

    def _address(self, path: str) -> str:
        return ZOO_ADDRESS + path[len(self.PREFIX) :]


class ObjectStoreHandler(PathHandler):
    """``s3://``, ``gs://``, ``hf://``: whatever store fsspec has a driver for.

    The driver is a package of its own (s3fs, gcsfs, huggingface_hub) and is loaded on first use.
    """

    PREFIXES = {"s3://": "s3fs", "gs://": "gcsfs", "gcs://": "gcsfs", "hf://": "huggingface_hub"}

    def __init__(self, prefixes: list[str] | None = None) -> None:
        """
        Args:
            prefixes: the kinds of addresses to serve; None takes those of `PREFIXES`.
        """
        super().__init__()
        self._prefixes = list(self.PREFIXES) if prefixes is None else prefixes

    def _get_supported_prefixes(self) -> list[str]:
        return self._prefixes

    def _store(self, path: str) -> tuple[Any, str]:
        """File system of an address, and the path in it."""
        import fsspec

        try:
            return fsspec.core.url_to_fs(path)
        except ImportError as error:
            prefix = path.split("://")[0] + "://"
            package = self.PREFIXES.get(prefix, "the driver of fsspec for it")
            raise ImportError(
                f"Reading {path!r} needs {package}; install it with pip install {package}."
            ) from error

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        store, name = self._store(path)
        return store.open(name, mode, **kwargs)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Path of a local copy; a changed file in the store gets a new copy."""
        self._check_kwargs(kwargs)
        store, name = self._store(path)
        version = hashlib.sha256(f"{path} {store.ukey(name)}".encode()).hexdigest()[:16]
        folder = os.path.join(get_cache_dir(), "object_stores", version)
        local = os.path.join(folder, name.rstrip("/").rsplit("/", 1)[-1])
        with file_lock(local):
            if force or not os.path.isfile(local):
                store.get_file(name, f"{local}.part")
                os.replace(f"{local}.part", local)
        return local

    def _copy_from_local(
        self, local_path: str, dst_path: str, overwrite: bool = False, **kwargs: Any
    ) -> bool:
        self._check_kwargs(kwargs)
        store, name = self._store(dst_path)
        if not overwrite and store.exists(name):
            return False
        store.put_file(local_path, name)
        return True

    def _exists(self, path: str, **kwargs: Any) -> bool:
        store, name = self._store(path)
        return bool(store.exists(name))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        store, name = self._store(path)
        return bool(store.isfile(name))

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        store, name = self._store(path)
        return bool(store.isdir(name))

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        store, name = self._store(path)
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in store.ls(name, detail=False)]

    def _mkdirs(self, path: str, **kwargs: Any) -> None:
        store, name = self._store(path)
        store.makedirs(name, exist_ok=True)

    def _rm(self, path: str, **kwargs: Any) -> None:
        store, name = self._store(path)
        store.rm(name)


for _handler in (WebHandler(), OneDriveHandler(), ZooHandler(), ObjectStoreHandler()):
    PathManager.register_handler(_handler)
