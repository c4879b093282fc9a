"""Addresses of models trained by Caffe2 programs: Detectron's models and ImageNet backbones."""

from __future__ import annotations

import difflib
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager

__all__ = ["ModelCatalog", "ModelCatalogHandler"]

# Detectron's baselines of December 2017. Their folders end with the time of the run and a random
# word, so only a list can know them.
_BASELINE_RUNS = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
    "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
    "35998355/rpn_R-50-C4_1x": "08_00_43.njH5oD9L",
    "35998814/rpn_R-50-FPN_1x": "08_06_03.Axg0r179",
}


def _baseline_folder(name: str, run: str) -> str:
    model_id, config = name.split("/")
    return f"{model_id}/12_2017_baselines/{config}.yaml.{run}"


class ModelCatalog:
    """Names of Caffe2 models and where their files are.

    Names are ``ImageNetPretrained/`` with a key of `C2_IMAGENET_MODELS`, such as
    ``ImageNetPretrained/MSRA/R-50``, and ``Caffe2Detectron/COCO/`` with a key of
    `C2_DETECTRON_MODELS`.
    """

    S3_C2_DETECTRON_PREFIX = "https://dl.fbaipublicfiles.com/detectron"

    C2_IMAGENET_MODELS = {
        "MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
        "MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
        "FAIR/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
        "FAIR/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
        "FAIR/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
        "FAIR/X-101-64x4d": "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl",
        "FAIR/X-152-32x8d-IN5k": "ImageNetPretrained/25093814/X-152-32x8d-IN5k.pkl",
    }

    C2_DETECTRON_PATH_FORMAT = "{prefix}/{url}/output/train/{dataset}/{type}/model_final.pkl"
    C2_DATASET_COCO = "coco_2014_train%3Acoco_2014_valminusminival"
    C2_DATASET_COCO_KEYPOINTS = "keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival"

    C2_DETECTRON_MODELS = {
        **{name: _baseline_folder(name, run) for name, run in _BASELINE_RUNS.items()},
        "36225147/fast_R-50-FPN_1x": _baseline_folder(
            "36225147/fast_rcnn_R-50-FPN_1x", "08_39_09.L3obSdQ2"
        ),
        "48616381/e2e_mask_rcnn_R-50-FPN_2x_gn": (
            "GN/48616381/04_2018_gn_baselines/e2e_mask_rcnn_R-50-FPN_2x_gn_0416.13_23_38.bTlTI97Q"
        ),
    }

    @staticmethod
    def get(name: str) -> str:
        """Address of a model.

        Raises:
            RuntimeError: the catalog has no such name.
        """
        kind, _, key = name.partition("/")
        if kind == "ImageNetPretrained" and key in ModelCatalog.C2_IMAGENET_MODELS:
            return f"{ModelCatalog.S3_C2_DETECTRON_PREFIX}/{ModelCatalog.C2_IMAGENET_MODELS[key]}"
        dataset, _, key = key.partition("/")
        if (kind, dataset) == ("Caffe2Detectron", "COCO") and key in (
            ModelCatalog.C2_DETECTRON_MODELS
        ):
            return _detectron_address(key)
        nearest = difflib.get_close_matches(name, _names(), n=3, cutoff=0.4)
        raise RuntimeError(
            f"The catalog of Caffe2 models has no {name!r}; the nearest names are "
            f"{', '.join(nearest) or 'none, see ModelCatalog'}."
        )


def _detectron_address(key: str) -> str:
    config = key.split("/")[-1]
    return ModelCatalog.C2_DETECTRON_PATH_FORMAT.format(
        prefix=ModelCatalog.S3_C2_DETECTRON_PREFIX,
        url=ModelCatalog.C2_DETECTRON_MODELS[key],
        dataset=(
            ModelCatalog.C2_DATASET_COCO_KEYPOINTS
            if "keypoint" in config
            else ModelCatalog.C2_DATASET_COCO
        ),
        type="rpn" if config.startswith("rpn") else "generalized_rcnn",
    )


def _names() -> list[str]:
    return [f"ImageNetPretrained/{key}" for key in ModelCatalog.C2_IMAGENET_MODELS] + [
        f"Caffe2Detectron/COCO/{key}" for key in ModelCatalog.C2_DETECTRON_MODELS
    ]


class ModelCatalogHandler(PathHandler):
    """``catalog://NAME``: the file of a model of `ModelCatalog`."""

    PREFIX = "catalog://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return PathManager.get_local_path(self._address(path), force=force, **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._address(path), mode, buffering=buffering, **kwargs)

    def _address(self, path: str) -> str:
        return ModelCatalog.get(path[len(self.PREFIX) :])


PathManager.register_handler(ModelCatalogHandler())
