"""What `detectron2 train` and `detectron2 eval` do with a YAML config or a LazyConfig."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.detection_checkpoint import LoadReport
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data._read_once import files_read_once, forget_files
from detectron2.data.datasets.auto.folder import keypoint_metadata
from detectron2.data.datasets.coco import read_coco_content, register_coco_instances
from detectron2.data.metadata_file import METADATA_FILE, save_metadata
from detectron2.engine._scale_workers import scale_to_batch
from detectron2.engine.config_edits import edits_of
from detectron2.engine.config_source import resolve_config
from detectron2.engine.data_folder import DataFolder, long_schedule, read_data_folder
from detectron2.engine.defaults import DefaultTrainer, default_setup
from detectron2.engine.exported_files import is_exported
from detectron2.engine.inference import speed_up
from detectron2.engine.launch import launch
from detectron2.engine.lr_finder import find_learning_rate
from detectron2.model_zoo._short_names import full_name
from detectron2.model_zoo.model_zoo import config_names
from detectron2.projects.shipped import trainer_of
from detectron2.utils import comm

__all__ = [
    "TrainOptions",
    "best_device",
    "configure",
    "published_weights",
    "refuse_foreign_weights",
    "run_evaluate",
    "run_train",
]

TRAIN_NAME, VAL_NAME = "own_train", "own_val"


@dataclass(frozen=True)
class TrainOptions:
    """Options of `detectron2 train` and `eval`; see their help."""

    config: str | None = None
    data: Path | None = None
    train_data: tuple[Path, Path] | None = None
    val_data: tuple[Path, Path] | None = None
    output: Path | None = None
    weights: str | None = None
    random_weights: bool = False
    resume: bool = False
    report: Path | None = None
    num_gpus: int = 1
    device: str | None = None
    precision: str = "fp32"
    auto_scale: bool = False
    find_lr: bool = False
    overrides: list[str] = field(default_factory=list)
    folder: DataFolder | None = field(default=None, repr=False)  # what `data` was found to hold


def run_train(options: TrainOptions) -> None:
    """Train on the GPUs asked for, or on the CPU.

    Raises:
        FileNotFoundError: the config, the weights or the data are not to be had.
        ValueError: the data has no categories, or the config is not of the right kind.
    """
    with files_read_once():
        if options.data is not None:
            options = dataclasses.replace(options, folder=read_data_folder(options.data))
        options = _with_config(options)
        # Says what is wrong before any process is started.
        cfg = configure(options, say=print)
        if options.folder is not None and (note := long_schedule(cfg, options.folder)):
            print(note)
        if options.auto_scale:
            print("\n".join(_auto_scaled(options)[1]))
        if options.num_gpus > 1:
            forget_files()  # other processes do not see them
        if not options.find_lr:
            launch(_train, options.num_gpus, dist_url="auto", args=(options,))
        elif options.num_gpus > 1:
            raise ValueError("--find-lr runs in one process; leave out --num-gpus.")
        else:
            print(_find_learning_rate(options))


def run_evaluate(options: TrainOptions) -> dict[str, Any]:
    """Evaluate the checkpoint, or an exported file, and return the metrics of every dataset.

    Raises:
        ValueError: the checkpoint is one of another architecture.
    """
    if options.config is not None and is_exported(options.config):
        return _evaluate_exported(options)
    with files_read_once(several_ask=True):  # until inference begins
        return _evaluate(options)


def _evaluate(options: TrainOptions) -> dict[str, Any]:
    if options.data is not None:
        folder = read_data_folder(options.data, options.weights)
        options = dataclasses.replace(options, folder=folder)
    options = _with_config(options)
    cfg = configure(options, for_training=False, say=print)
    weights = options.weights or published_weights(_named(options.config))
    edits_of(cfg).set_weights(weights)
    _set_up(cfg, options, eval_only=True)
    trainer_class = trainer_of(cfg) or DefaultTrainer
    model = trainer_class.build_model(cfg)
    checkpointer = DetectionCheckpointer(model, save_dir=edits_of(cfg).output_dir)
    checkpointer.load(weights)
    refuse_foreign_weights(checkpointer.report, weights)
    model = speed_up(model, options.precision)
    if options.report is None and not options.resume:
        return trainer_class.test(cfg, model)
    from detectron2.engine.evaluate_command import evaluate_with_report

    return evaluate_with_report(cfg, model, options.report, options.resume)


def _evaluate_exported(options: TrainOptions) -> dict[str, Any]:
    from detectron2.engine.evaluate_exported import evaluate_exported

    if options.weights or options.overrides:
        raise ValueError(
            f"{options.config!r} is an exported model, which has its weights and settings inside: "
            "leave out --weights and --set."
        )
    if options.val_data is None:
        raise ValueError(
            f"{options.config!r} is an exported model, which names no dataset: add "
            "--val-data ANNOTATIONS.json IMAGE_FOLDER."
        )
    _register(VAL_NAME, *options.val_data)
    output = options.output or Path("output")
    return evaluate_exported(
        _named(options.config), VAL_NAME, output, options.device or "cpu", options.precision
    )


def configure(
    options: TrainOptions,
    for_training: bool = True,
    say: Callable[[str], object] | None = None,
) -> Any:
    """Config with the options applied and the data registered.

    Overrides come last: one that is given explicitly wins over what the data suggests.

    Args:
        options: with a config.
        for_training: False if the data are only evaluated on.
        say: called with sentences about what a folder of data holds and sets.
    """
    cfg = resolve_config(_named(options.config))
    edits = edits_of(cfg)
    if options.data is not None:
        if options.train_data is not None or options.val_data is not None:
            raise ValueError("--data is a whole dataset; leave out --train-data and --val-data.")
        checkpoint = None if for_training else options.weights
        folder = options.folder or read_data_folder(options.data, checkpoint)
        for sentence in folder.apply(edits, for_training, options.num_gpus):
            if say is not None:
                say(sentence)
    if options.train_data is not None:
        categories = _register(TRAIN_NAME, *options.train_data)
        edits.set_datasets(train=TRAIN_NAME)
        edits.set_categories(categories)
    if options.val_data is not None:
        categories = _register(VAL_NAME, *options.val_data)
        edits.set_datasets(test=VAL_NAME)
        if options.train_data is None:
            edits.set_categories(categories)
    if options.output is not None:
        edits.set_output_dir(str(options.output))
    if options.weights is not None or options.random_weights:
        edits.set_weights(options.weights or "")
    edits.set_device(options.device or best_device())
    return resolve_config(cfg, options.overrides)


def _with_config(options: TrainOptions) -> TrainOptions:
    """Options with the whole name of a config, or one that suits the data if none was named."""
    if options.config is not None:
        return dataclasses.replace(options, config=_whole_name(options.config))
    if options.data is None:
        return options
    config = (options.folder or read_data_folder(options.data)).suggested_config()
    print(f"No config is named; {config} suits the annotations.")
    return dataclasses.replace(options, config=config)


def _whole_name(config: str) -> str:
    known = config_names()
    name = None if config in known or Path(config).exists() else full_name(config, known)
    if name is None:
        return config
    print(f"{config} is {name} of the model zoo.")
    return name


def _named(config: str | None) -> str:
    if config is None:
        raise ValueError(
            "Name a config, such as COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml, or --data FOLDER."
        )
    return config


def best_device() -> str:
    """The fastest device that is here: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def published_weights(config: str) -> str:
    """Address of the published weights of a zoo config.

    Raises:
        ValueError: `config` is a file.
        RuntimeError: nothing is published for it.
    """
    if Path(config).exists():
        raise ValueError(
            f"{config!r} is a file, which has no published weights: "
            "add --weights FILE, or for predict --random-weights."
        )
    return model_zoo.get_checkpoint_url(config)


def refuse_foreign_weights(report: LoadReport | None, weights: str) -> None:
    """Stop before a model predicts with random weights.

    Args:
        report: of loading `weights`; None if there were none.

    Raises:
        ValueError: most of the model was not in the checkpoint, or some of it in another shape.
    """
    if report is None:
        return
    if report.other_shape and not report.is_foreign:
        raise ValueError(
            f"The checkpoint {weights!r} does not fit this config: tensors listed above have other "
            "shapes, and random ones would predict. Name the config that it was trained with; for "
            "another number of classes set MODEL.ROI_HEADS.NUM_CLASSES."
        )
    if not (report.is_foreign or report.empty_parts):
        return
    raise ValueError(
        f"The checkpoint {weights!r} does not fit this config: {report.loaded} of {report.total} "
        f"tensors of the model are in it{_nothing_of(report.empty_parts)}. What differs is listed "
        "above; name the config that it was trained with."
    )


def _nothing_of(parts: Sequence[str]) -> str:
    return f", and nothing of {' and '.join(parts)}" if parts else ""


def _auto_scaled(options: TrainOptions) -> tuple[Any, list[str]]:
    """Config for the batch size given, and what the linear rule changed in it.

    Raises:
        ValueError: it is a LazyConfig.
    """
    cfg = configure(options)
    if not isinstance(cfg, CfgNode):
        raise ValueError("--auto-scale is for YAML configs; change train.* of a LazyConfig.")
    reference = configure(dataclasses.replace(options, overrides=[]))
    frozen = cfg.is_frozen()
    cfg.defrost()
    said = scale_to_batch(cfg, reference)
    if frozen:
        cfg.freeze()
    return cfg, said or ["--auto-scale: the batch size is that of the config; nothing changes."]


def _train(options: TrainOptions) -> None:
    cfg = _auto_scaled(options)[0] if options.auto_scale else configure(options)
    _set_up(cfg, options, eval_only=False)
    edits = edits_of(cfg)
    name = edits.train_dataset()
    if comm.is_main_process() and name is not None:
        if MetadataCatalog.get(name).get("thing_classes") is None:
            DatasetCatalog.get(name)  # class names are known once the annotations are read
        save_metadata(name, Path(edits.output_dir) / METADATA_FILE)
    trainer = (trainer_of(cfg) or DefaultTrainer)(cfg)
    trainer.resume_or_load(resume=options.resume)
    forget_files()
    trainer.train()


def _find_learning_rate(options: TrainOptions) -> str:
    """What losses rising rates have, as lines of text."""
    cfg = _auto_scaled(options)[0] if options.auto_scale else configure(options)
    _set_up(cfg, options, eval_only=False)
    trainer = (trainer_of(cfg) or DefaultTrainer)(cfg)
    trainer.resume_or_load(resume=False)
    found = find_learning_rate(trainer.model, trainer.data_loader, trainer.optimizer)
    rows = list(zip(found.rates, found.losses, strict=True))
    lines = [f"{rate:12.3g} {loss:12.4g}" for rate, loss in rows[:: max(len(rows) // 20, 1)]]
    key = "SOLVER.BASE_LR" if isinstance(cfg, CfgNode) else "optimizer.lr"
    return "\n".join(
        [
            f"{'rate':>12} {'loss':>12}",
            *lines,
            f"The loss falls steepest at {found.suggested:.3g}: --set {key}={found.suggested:.3g}",
        ]
    )


def _set_up(cfg: Any, options: TrainOptions, eval_only: bool) -> None:
    default_setup(cfg, argparse.Namespace(config_file=options.config, eval_only=eval_only, opts=[]))


def _register(name: str, annotations: Path, images: Path) -> list[dict[str, Any]]:
    """Register a COCO file under `name` and return its categories.

    Raises:
        FileNotFoundError: the file or the folder of its images is absent.
        ValueError: it is not in COCO's format, or lists no categories.
    """
    for path in (annotations, images):
        if not path.exists():
            raise FileNotFoundError(f"{str(path)!r} does not exist.")
    categories = read_coco_content(str(annotations)).get("categories")
    if not categories:
        raise ValueError(f"{str(annotations)!r} lists no categories, so there is nothing to learn.")
    if not isinstance(categories, list) or not all(
        isinstance(category, dict) and {"id", "name"} <= category.keys() for category in categories
    ):
        raise ValueError(
            f"'categories' of {str(annotations)!r} must be a list of entries with 'id' and 'name'."
        )
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(
        name, keypoint_metadata(categories[0].get("keypoints") or []), str(annotations), str(images)
    )
    return categories
