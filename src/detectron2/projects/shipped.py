"""The projects of this package: where their configs lie, which keys are theirs, who trains them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from detectron2.config import CfgNode

__all__ = ["PROJECTS", "Project", "add_keys_of_file", "trainer_of"]


@dataclass(frozen=True)
class Project:
    """A package of `detectron2.projects`.

    Attributes:
        name: first part of the names of its configs in the model zoo.
        package: its module here; its folder `configs` has the config files.
        add_keys: the function of that package which adds its keys to a config.
        own_keys: keys that no other project has.
        trainer: "module:class" of that package, a subclass of `DefaultTrainer` with the schedule
            and the data of its configs; empty where `DefaultTrainer` itself does.
    """

    name: str
    package: str
    add_keys: str
    own_keys: tuple[str, ...]
    trainer: str = ""

    @property
    def configs(self) -> str:
        """Folder of its config files."""
        return os.path.join(os.path.dirname(__file__), self.package, "configs")


PROJECTS = (
    Project(
        "PointRend",
        "point_rend",
        "add_pointrend_config",
        ("MODEL.POINT_HEAD",),
        trainer="trainer:PointRendTrainer",
    ),
    Project(
        "DeepLab",
        "deeplab",
        "add_deeplab_config",
        (
            "MODEL.RESNETS.RES4_DILATION",
            "MODEL.RESNETS.RES5_MULTI_GRID",
            "MODEL.RESNETS.STEM_TYPE",
            "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS",
            "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
            "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS",
            "SOLVER.POLY_LR_POWER",
        ),
        trainer="trainer:DeepLabTrainer",
    ),
    # After DeepLab: its function adds those keys, too.
    Project(
        "PanopticDeepLab",
        "panoptic_deeplab",
        "add_panoptic_deeplab_config",
        ("MODEL.INS_EMBED_HEAD", "MODEL.PANOPTIC_DEEPLAB"),
        trainer="trainer:PanopticDeepLabTrainer",
    ),
)


def add_keys_of_file(cfg: CfgNode, filename: str) -> None:
    """Add the keys of every project of which a YAML file, or one of its bases, sets a key.

    Importing a project registers its models, so they can be built from `cfg` afterwards.

    Raises:
        FileNotFoundError, ValueError: as `CfgNode.merge_from_file`.
    """
    tree = type(cfg).load_yaml_with_base(filename)
    for project in PROJECTS:
        if any(_has(tree, key) for key in project.own_keys):
            package = import_module(f"detectron2.projects.{project.package}")
            getattr(package, project.add_keys)(cfg)


def trainer_of(cfg: Any) -> Any:
    """The trainer of the project whose keys a config has; None where `DefaultTrainer` does it."""
    for project in reversed(PROJECTS):
        if project.trainer and any(_has(cfg, key) for key in project.own_keys):
            module, name = project.trainer.split(":")
            package = f"detectron2.projects.{project.package}.{module}"
            return getattr(import_module(package), name)
    return None


def _has(tree: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True
