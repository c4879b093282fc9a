"""What `detectron2 serve` does: load the model, try it once, serve it."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detectron2.engine.load_predictor import ModelSource, load_predictor
from detectron2.engine.serving.limits import ServeLimits
from detectron2.engine.serving.model import ServedModel, served_model

__all__ = ["ServeOptions", "require_serving", "run_serve"]

_PACKAGES = ("fastapi", "uvicorn", "python_multipart")


@dataclass(frozen=True)
class ServeOptions:
    """Options of `detectron2 serve`; see its help."""

    source: ModelSource
    host: str = "127.0.0.1"
    port: int = 8000
    min_score: float = 0.5
    limits: ServeLimits = field(default_factory=ServeLimits)


def run_serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT, and say where.

    Raises:
        ImportError: a package of the extra is missing.
        FileNotFoundError, ValueError: see `load_predictor`.
        OSError: the address is in use.
    """
    require_serving()
    from detectron2.engine.serving.app import create_app
    from detectron2.engine.serving.server import make_server, run_server

    loaded = load_predictor(options.source)
    # Visitors are told the name; the folders of this machine are not their business.
    name = "/".join(Path(options.source.config).parts[-2:])
    model = served_model(loaded, name, options.limits.max_pixels)
    seconds = _try_once(model)
    app = create_app(model, options.limits, options.min_score)
    server = make_server(app, options.limits, options.host, options.port)
    run_server(
        server,
        lambda address: print(
            f"{model.name} on {address} (an image took {seconds:.2f} s; Ctrl-C stops)", flush=True
        ),
    )
    print("Stopped; what was in flight has been answered.", flush=True)


def require_serving() -> None:
    """Check that the packages of the extra "serve" are installed.

    Raises:
        ImportError: one is missing; the message says what to install.
    """
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f'Serving needs the package {package!r}: pip install "detectron2[serve]".'
            ) from error


def _try_once(model: ServedModel) -> float:
    """Seconds of a second image; the first one compiles kernels, which no request should wait for.

    A model that cannot run fails here, before it is served.
    """
    pixels = np.full((480, 640, 3), 127, dtype=np.uint8)
    for _ in range(2):
        start = time.monotonic()
        model.run([model.prepare(pixels)])
    return time.monotonic() - start
