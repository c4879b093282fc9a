"""Trainings by two processes, started by tests with launch() or torchrun."""

import logging
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from toy_project import ToyTrainer, register_dataset, toy_config

from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase, SimpleTrainer, create_ddp_model, hooks, launch
from detectron2.engine.sharding import load_sharded, save_sharded, shard_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import JSONWriter

STEPS = 8


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, batch):
        return {"loss": self.layers(batch).square().mean()}


def shares(size):
    """This process's share of global batches of `size`."""
    generator = torch.Generator().manual_seed(1)
    while True:
        batch = torch.rand(size, 4, generator=generator)
        yield batch[comm.get_rank() :: comm.get_world_size()]


def curve(accumulation, **options):
    """Losses of steps on 8 rows in all."""
    model = create_ddp_model(Model(), **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = SimpleTrainer(model, shares(8 // accumulation), optimizer)
    trainer.accumulation_steps = accumulation
    trainer.train(0, STEPS)
    return (
        [value for value, _ in trainer.storage.histories()["total_loss"].values()]
        if (comm.is_main_process())
        else []
    )


def sharded_curve(folder):
    """The same with sharded parameters, saved and loaded into a new model half way."""

    def new_trainer():
        model = shard_model(Model(), blocks=(nn.Linear,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        return SimpleTrainer(model, loader, optimizer)

    loader = shares(8)
    first = new_trainer()
    first.train(0, STEPS // 2)
    folder = os.path.join(folder, "sharded")
    save_sharded(folder, first.model, first.optimizer, {"iteration": first.iter})
    second = new_trainer()
    torch.nn.init.zeros_(next(second.model.parameters()))
    extra = load_sharded(folder, second.model, second.optimizer, {"iteration": 0})
    second.train(extra["iteration"], STEPS)
    trainers = (first, second) if comm.is_main_process() else ()
    return [v for t in trainers for v, _ in t.storage.history("total_loss").values()]


class Trainer(ToyTrainer):
    def build_writers(self):
        return [JSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), window_size=1)]

    def build_hooks(self):
        result = super().build_hooks()
        if comm.is_main_process():
            result[-1] = hooks.PeriodicWriter(self.build_writers(), 1)
        return result


class KillFirst(HookBase):
    """Kills rank 1 in iteration 5 of the first start, as the kernel does when memory is short."""

    def before_step(self):
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first and self.trainer.iter == 5 and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder, until=STEPS, kill=False):
    """Train the toy, whose dropout and data draw other numbers in each process."""
    logging.disable(logging.CRITICAL)
    os.makedirs(folder, exist_ok=True)
    if "distributed" not in DatasetCatalog.list():
        for rank in range(comm.get_world_size()):  # one after the other: they write files
            if rank == comm.get_rank():
                register_dataset(Path(folder).parent / "images", "distributed", images=5)
            comm.synchronize()
    cfg = toy_config(folder, "distributed")
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.SOLVER.IMS_PER_BATCH = 4  # batch normalization needs two images in each process
    cfg.SOLVER.MAX_ITER = STEPS
    seed_all_rng(3 + comm.get_rank())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.register_hooks([KillFirst()] if kill else [])
    trainer.max_iter = until
    trainer.train()


def everything(folder):
    torch.set_num_threads(1)
    curves = {
        "plain": curve(1),
        "accumulated": curve(2),
        "sharded": sharded_curve(folder),
        "static": curve(1, static_graph=True, gradient_as_bucket_view=True),
    }
    if comm.is_main_process():
        torch.save(curves, os.path.join(folder, "curves.pth"))
    train(os.path.join(folder, "whole"))
    train(os.path.join(folder, "interrupted"), until=4)
    train(os.path.join(folder, "interrupted"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    launch(train, 1, args=(sys.argv[1], STEPS, sys.argv[2] == "kill"))
