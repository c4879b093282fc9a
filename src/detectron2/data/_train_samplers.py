"""Samplers of training by the name that a config has for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch.utils.data.sampler import Sampler

from detectron2.config.mapping import lookup, read_arguments
from detectron2.config.mapping.data import REPEAT_FACTORS
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)

__all__ = ["TRAIN_SAMPLERS", "build_train_sampler"]

logger = logging.getLogger("detectron2.data.build")  # the address under which they are public


def _random_subset_sampler(cfg: Any, dataset: Any) -> Sampler[int]:
    return RandomSubsetTrainingSampler(len(dataset), lookup(cfg, "DATALOADER.RANDOM_SUBSET_RATIO"))


def _repeat_factor_sampler(cfg: Any, dataset: Any) -> Sampler[int]:
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dataset, **read_arguments(cfg, REPEAT_FACTORS)
    )
    return RepeatFactorTrainingSampler(factors)


# DATALOADER.SAMPLER_TRAIN -> function of the config and the dataset. Add a row to add a sampler.
TRAIN_SAMPLERS: dict[str, Callable[[Any, Any], Sampler[int]]] = {
    "TrainingSampler": lambda cfg, dataset: TrainingSampler(len(dataset)),
    "RepeatFactorTrainingSampler": _repeat_factor_sampler,
    "RandomSubsetTrainingSampler": _random_subset_sampler,
}


def build_train_sampler(cfg: Any, name: str, dataset: Any) -> Sampler[int]:
    if name not in TRAIN_SAMPLERS:
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is {name!r}; use one of {', '.join(TRAIN_SAMPLERS)}, add "
            "yours to detectron2.data.build.TRAIN_SAMPLERS, or pass it as sampler=."
        )
    logger.info("Using training sampler %s", name)
    return TRAIN_SAMPLERS[name](cfg, dataset)
