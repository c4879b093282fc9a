"""Configs, weights and whole models of the zoo by the name of their config file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.model_zoo import catalogue
from detectron2.projects.shipped import PROJECTS, add_keys_of_file

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "config_names",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "similar_names",
]

_CONFIGS = os.path.join(os.path.dirname(__file__), "configs")
# By the beginning of their names: the zoo's own configs, and those of projects.
_FOLDERS = {"": _CONFIGS, **{f"{project.name}/": project.configs for project in PROJECTS}}


def get_checkpoint_url(config_path: str) -> str:
    """Address of the weights that were trained with a config.

    Args:
        config_path: such as ``"COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"``.

    Raises:
        RuntimeError: the zoo has no weights for this config.
    """
    entry = catalogue.find(config_path)
    if entry is None:
        hint = _hint(config_path, [entry.config for entry in catalogue.entries()])
        raise RuntimeError(f"The model zoo has no trained weights for {config_path!r}.{hint}")
    return entry.url


def get_config_file(config_path: str) -> str:
    """Path of a config file that ships with the library.

    Args:
        config_path: such as ``"COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"``; the ending may be
            left out.

    Raises:
        RuntimeError: there is no such file.
    """
    for start, folder in _FOLDERS.items():
        for ending in ("", ".yaml", ".py"):
            path = os.path.join(folder, *(config_path.removeprefix(start) + ending).split("/"))
            if config_path.startswith(start) and os.path.isfile(path):
                return path
    hint = _hint(config_path, config_names())
    raise RuntimeError(f"The model zoo has no config {config_path!r}.{hint}")


def config_names() -> list[str]:
    """Paths of all config files that ship with the library, for `get_config`."""
    names = []
    for start, root in _FOLDERS.items():
        for folder, _, files in os.walk(root):
            for file in files:
                if file.endswith((".yaml", ".py")):
                    path = os.path.relpath(os.path.join(folder, file), root)
                    names.append(start + path.replace(os.sep, "/"))
    return sorted(names)


def get_config(config_path: str, trained: bool = False) -> CfgNode | DictConfig:
    """Config of the zoo: a CfgNode for ``.yaml``, an omegaconf node for ``.py``.

    Args:
        config_path: such as ``"COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"``.
        trained: set the weights that this config was trained to. Otherwise the config keeps
            those it starts training from, usually a backbone trained on ImageNet.

    Raises:
        RuntimeError: there is no such config, or no weights for it.
        ValueError: `trained`, and the config is a piece (``common/...``) that loads no weights.
    """
    path = get_config_file(config_path)
    if path.endswith(".py"):
        lazy = LazyConfig.load(path)
        if trained:
            if "train" not in lazy or "init_checkpoint" not in lazy.train:
                raise ValueError(f"Config {config_path!r} has no train.init_checkpoint to set.")
            lazy.train.init_checkpoint = get_checkpoint_url(config_path)
        return lazy
    cfg = get_cfg()
    add_keys_of_file(cfg, path)
    cfg.merge_from_file(path)
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Model of the zoo, in training mode, with its weights loaded.

    Args:
        config_path: such as ``"COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"``.
        trained: load the trained weights; otherwise those the config starts training from.
        device: where the model goes; None is the config's choice, or the CPU without a GPU.

    Raises:
        RuntimeError: there is no such config, or no weights for it.
    """
    import torch

    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    cfg = get_config(config_path, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if isinstance(cfg, CfgNode):
        if device is not None:
            cfg.MODEL.DEVICE = device
        model = build_model(cfg)
        weights = cfg.MODEL.WEIGHTS
    else:
        model = instantiate(cfg.model)
        if device is not None:
            model = model.to(device)
        weights = cfg.train.init_checkpoint if "train" in cfg else ""
    DetectionCheckpointer(model).load(weights)
    return model


def similar_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of `known` that look like `name`, also if only their last parts do."""
    by_file = {os.path.basename(each): each for each in known}
    close = difflib.get_close_matches(name, known, n=3)
    close += [by_file[file] for file in difflib.get_close_matches(os.path.basename(name), by_file)]
    return list(dict.fromkeys(close))[:3]


def _hint(name: str, known: Sequence[str]) -> str:
    similar = similar_names(name, known)
    return f" Did you mean {' or '.join(map(repr, similar))}?" if similar else ""


def __getattr__(name: str) -> Any:
    """Names that old code takes from here, without loading all models to read a config."""
    if name == "_ModelZooUrls":
        from detectron2.model_zoo._urls import _ModelZooUrls

        return _ModelZooUrls
    if name == "build_model":
        from detectron2.modeling import build_model

        return build_model
    if name == "DetectionCheckpointer":
        from detectron2.checkpoint import DetectionCheckpointer

        return DetectionCheckpointer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
