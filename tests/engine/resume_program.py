"""A training in a process of its own, which tests kill. Started by a fork server."""

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer imports it, which takes longer than the training
from toy_project import ToyTrainer, register_dataset, toy_config

from detectron2.checkpoint import detection_checkpoint
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.transforms import RandomBrightness, RandomFlip
from detectron2.engine import hooks, launch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import JSONWriter

ITERATIONS = 24


class Trainer(ToyTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        from detectron2.data import build_detection_train_loader

        mapper = DatasetMapper(
            is_train=True,
            augmentations=[RandomBrightness(0.5, 1.5), RandomFlip()],
            image_format="BGR",
        )
        return build_detection_train_loader(
            cfg, mapper=Oriented(mapper, cfg.OUTPUT_DIR + ".loaders")
        )

    def build_writers(self):
        return [JSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), window_size=1)]

    def build_hooks(self):
        result = super().build_hooks()
        result[-1] = hooks.PeriodicWriter(self.build_writers(), 1) if result[-1] else None
        return result


class WaitForSignal(hooks.HookBase):
    """Holds the training in an iteration until a signal comes."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter != self.iteration:
            return
        Path(self.trainer.cfg.OUTPUT_DIR, "waiting").touch()
        while not self.trainer._interruption.signal_name:
            time.sleep(0.002)


class Oriented:
    """Every third picture is said to be a portrait, so that batches are grouped."""

    def __init__(self, mapper, list_of_processes):
        self.mapper = mapper
        self.list_of_processes = list_of_processes

    def __call__(self, record):
        mapped = self.mapper(record)
        with open(self.list_of_processes, "a") as stream:
            stream.write(f"{os.getpid()}\n")
        if record["image_id"] % 3 == 0:
            mapped["width"], mapped["height"] = mapped["height"], mapped["width"]
        return mapped


def config(folder, images, workers=2):
    cfg = toy_config(folder, "resumed")
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.SOLVER.MAX_ITER = ITERATIONS
    cfg.SOLVER.STEPS = (18,)
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    cfg.TRAINING.CHECKPOINTS_TO_KEEP = 2
    cfg.TEST.EVAL_PERIOD = 7
    return cfg


def die_in_write(number):
    """Let the `number`-th file of a checkpoint be cut off by the end of this process."""
    whole, calls = detection_checkpoint.write_through, []

    def write_through(file, write):
        calls.append(file)
        if len(calls) == number:
            file.write(b"PK" + bytes(2000))
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        whole(file, write)

    detection_checkpoint.write_through = write_through


def run(folder, images, options):
    torch.set_num_threads(1)
    if "resumed" not in DatasetCatalog.list():
        register_dataset(images, "resumed", images=7)
    if options.get("die_in_write"):
        die_in_write(options["die_in_write"])
    seed_all_rng(3)
    trainer = Trainer(config(folder, images, options.get("workers", 2)))
    trainer.register_hooks([WaitForSignal(options.get("wait_for_signal", -1))])
    trainer.resume_or_load(resume=True)
    print("started", trainer.start_iter, flush=True)
    trainer.train()


def train(folder, images, options):
    """Entry point of a process; its exit code is that of a program."""
    logging.disable(logging.CRITICAL)
    # Loaders start their workers as in a program of its own, not by another fork server.
    multiprocessing.set_start_method(options.get("start_method"), force=True)
    sys.stdout = open(os.path.join(folder, "stdout.txt"), "a")  # noqa: SIM115
    launch(run, 1, args=(folder, images, options))


def nothing():
    """Entry point of a process that shows that the fork server is ready."""


def losses(folder):
    """(iteration, loss) of every line of the metrics, in the order of the file."""
    with open(os.path.join(folder, "metrics.json")) as stream:
        lines = [json.loads(line) for line in stream]
    return [(e["iteration"], e["total_loss"]) for e in lines if "total_loss" in e]
