"""The catalogue under the name by which notebooks list the models of the zoo."""

from __future__ import annotations

from detectron2.model_zoo import catalogue
from detectron2.utils.file_io import ZOO_ADDRESS

__all__ = ["_ModelZooUrls"]


class _ModelZooUrls:
    """Addresses of the weights; `get_checkpoint_url` and `catalogue` are what to use.

    Attributes:
        S3_PREFIX: what all addresses begin with.
        CONFIG_PATH_TO_URL_SUFFIX: "model id/file" by config path without its ending.
    """

    S3_PREFIX = ZOO_ADDRESS
    CONFIG_PATH_TO_URL_SUFFIX = {entry.name: entry.weights for entry in catalogue.entries()}

    @staticmethod
    def query(config_path: str) -> str | None:
        """Address of the weights of a config, None if there are none."""
        entry = catalogue.find(config_path)
        return None if entry is None else entry.url
