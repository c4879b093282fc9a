"""What `detectron2 benchmark` measures: variants of a model, files, and other programs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detectron2.engine.benchmark import Benchmark, benchmark_predictor
from detectron2.engine.config_edits import edits_of
from detectron2.engine.config_source import resolve_config
from detectron2.engine.defaults import DefaultPredictor
from detectron2.engine.exported_files import is_exported
from detectron2.engine.inference import undo_speed_up
from detectron2.engine.train_command import best_device, published_weights

if TYPE_CHECKING:
    from detectron2.engine.benchmark_options import BenchmarkOptions

__all__ = ["PEERS", "VARIANTS", "entrants", "predictor_of"]

VARIANTS = ("plain", "fp32", "bf16", "fp16")
PEERS = ("torchvision", "onnxruntime", "openvino")
# Runtime -> the format of its files.
_FORMATS = {"onnxruntime": "onnx", "openvino": "openvino"}

Measure = Callable[[Callable[[], None]], Benchmark]


@contextmanager
def entrants(
    options: BenchmarkOptions, images: Sequence[np.ndarray]
) -> Iterator[list[tuple[str, Measure]]]:
    """Name of everything that is to be measured, and what measures it when called.

    Args:
        images: (H, W, 3) uint8 BGR.

    Raises:
        ValueError: an unknown name, or one that does not fit the model.
    """
    with tempfile.TemporaryDirectory(prefix="detectron2") as folder:
        found: list[tuple[str, Measure]] = []
        for name, load in _loaders(options, images, Path(folder)).items():
            found.append((name, _measured(name, load, options, images)))
        if "torchvision" in options.compare:
            found.append(("torchvision", _torchvision(options, images)))
        yield found


def _loaders(
    options: BenchmarkOptions, images: Sequence[np.ndarray], folder: Path
) -> dict[str, Callable[[], Any]]:
    """What loads each predictor, by name."""
    if is_exported(options.config):
        _refuse_options_of_configs(options)
        loaders = {Path(options.config).name: _file_loader(Path(options.config), options)}
    else:
        loaders = {name: _variant_loader(options, name) for name in options.variants}
    for name in options.compare:
        if name in _FORMATS:
            loaders[name] = _file_loader(_exported(options, name, images, folder), options)
        elif is_exported(name):
            loaders[Path(name).name] = _file_loader(Path(name), options)
    return loaders


def _measured(
    name: str,
    load: Callable[[], Any],
    options: BenchmarkOptions,
    images: Sequence[np.ndarray],
) -> Measure:
    def measure(on_run: Callable[[], None]) -> Benchmark:
        return benchmark_predictor(name, load, images, repeats=options.repeats, on_run=on_run)

    return measure


def _variant_loader(options: BenchmarkOptions, name: str) -> Callable[[], Any]:
    return lambda: predictor_of(options, name)


def _file_loader(path: Path, options: BenchmarkOptions) -> Callable[[], Any]:
    def load() -> Any:
        from detectron2.export import load

        return load(path, options.device or "cpu", threads=torch.get_num_threads())

    return load


def _refuse_options_of_configs(options: BenchmarkOptions) -> None:
    foreign = [name for name in options.compare if not is_exported(name)]
    if options.weights or options.random_weights or options.overrides or foreign:
        raise ValueError(
            f"{options.config!r} is an exported model, which has its weights and settings inside: "
            "leave out --weights, --random-weights and --set, and compare only with other files."
        )


def _exported(
    options: BenchmarkOptions, runtime: str, images: Sequence[np.ndarray], folder: Path
) -> Path:
    """The model in a file of a runtime, proved to compute the same."""
    from detectron2.export import export
    from detectron2.export.formats import FORMATS

    _needs_cpu(options, runtime)
    format = _FORMATS[runtime]
    path = folder / f"model{FORMATS[format].suffixes[0]}"
    cfg = _config(options)
    torch.manual_seed(0)
    export(cfg, format, path, images=images[:2])
    return path


def _torchvision(options: BenchmarkOptions, images: Sequence[np.ndarray]) -> Measure:
    from detectron2.engine.torchvision_peer import benchmark_torchvision, check_torchvision

    _needs_cpu(options, "torchvision")
    if is_exported(options.config):
        raise ValueError("torchvision is compared with a config and its weights, not with a file.")
    check_torchvision(options.compare_python)

    def measure(on_run: Callable[[], None]) -> Benchmark:
        predictor = predictor_of(options, "plain")
        result = benchmark_torchvision(
            predictor, images, repeats=options.repeats, python=options.compare_python
        )
        for _ in range((options.repeats + 1) * len(images)):
            on_run()
        return result

    return measure


def _needs_cpu(options: BenchmarkOptions, name: str) -> None:
    device = options.device or best_device()
    if device != "cpu":
        raise ValueError(f"{name} is compared on the CPU, not on {device}: add --device cpu.")


def _config(options: BenchmarkOptions) -> Any:
    cfg = resolve_config(options.config, options.overrides)
    edits = edits_of(cfg)
    weights = options.weights or ("" if options.random_weights else None)
    edits.set_weights(published_weights(options.config) if weights is None else weights)
    edits.set_device(options.device or best_device())
    return cfg


def predictor_of(options: BenchmarkOptions, variant: str) -> DefaultPredictor:
    """The model in one of `VARIANTS`."""
    # Random weights are the same ones for every variant.
    torch.manual_seed(0)
    precision = "fp32" if variant == "plain" else variant
    predictor = DefaultPredictor(_config(options), precision=precision)
    if variant == "plain":
        undo_speed_up(predictor.model)
    return predictor
