"""Trainings by two processes, started by tests with launch() or torchrun."""

import functools
import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from toy_project import ToyDetector, ToyTrainer, register_dataset, toy_config

from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase, SimpleTrainer, create_ddp_model, hooks, launch
from detectron2.layers import CNNBlockBase
from detectron2.modeling import META_ARCH_REGISTRY
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


class SmoothDetector(ToyDetector):
    """Without what depends on how a batch is divided; it has a block to shard."""

    def __init__(self, cfg=None):
        super().__init__(cfg, dropout=0.0)
        torch.manual_seed(0)
        self.layer = nn.Sequential(Block(3, 8), nn.ReLU(), nn.Linear(8, 3))
        self.norm = nn.Identity()


class Block(CNNBlockBase):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 1)
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x):
        return self.linear(x)


META_ARCH_REGISTRY.register(SmoothDetector)


def smooth_config(folder, sharded):
    cfg = training_config(folder)
    cfg.MODEL.META_ARCHITECTURE = "SmoothDetector"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.05
    cfg.TEST.EVAL_PERIOD = 4
    cfg.TRAINING.FSDP.ENABLED = sharded
    cfg.TRAINING.CHECKPOINTS_TO_KEEP = 2
    return cfg


class Trainer(ToyTrainer):
    def build_writers(self):
        return [JSONWriter(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), window_size=1)]

    def build_hooks(self):
        result = super().build_hooks()
        if comm.is_main_process():
            result[-1] = hooks.PeriodicWriter(self.build_writers(), 1)
        return result


class KillOnce(HookBase):
    """Kills rank 1 in iteration 5 of the first start, as the kernel does when memory is short."""

    def before_step(self):
        # Not TORCHELASTIC_RESTART_COUNT: an agent that restarts because of another one counts 0.
        mark = Path(self.trainer.cfg.OUTPUT_DIR + ".killed")
        if self.trainer.iter == 5 and comm.get_rank() == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def training_config(folder):
    cfg = toy_config(folder, "distributed")
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.SOLVER.IMS_PER_BATCH = 4  # batch normalization needs two images in each process
    cfg.SOLVER.MAX_ITER = STEPS
    return cfg


def long_config(folder):
    cfg = training_config(folder)
    cfg.SOLVER.MAX_ITER = 20
    return cfg


def train(folder, until=STEPS, hooks=(), make_config=training_config):
    """Train the toy, whose dropout and data draw other numbers in each process."""
    os.makedirs(folder, exist_ok=True)
    if "distributed" not in DatasetCatalog.list():
        for rank in range(comm.get_world_size()):  # one after the other: they write files
            if rank == comm.get_rank():
                register_dataset(Path(folder).parent / "images", "distributed", images=5)
            comm.synchronize()
    seed_all_rng(3 + comm.get_rank())
    trainer = Trainer(make_config(folder))
    trainer.resume_or_load(resume=True)
    trainer.register_hooks(hooks)
    trainer.max_iter = until
    trainer.train()


def everything(folder):
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    curves = {
        "plain": curve(1),
        "accumulated": curve(2),
        "static": curve(1, static_graph=True, gradient_as_bucket_view=True),
    }
    if comm.is_main_process():
        torch.save(curves, os.path.join(folder, "curves.pth"))
    train(os.path.join(folder, "whole"))
    train(os.path.join(folder, "interrupted"), until=4)
    train(os.path.join(folder, "interrupted"))
    sharded = functools.partial(smooth_config, sharded=True)
    train(os.path.join(folder, "sharded"), until=5, make_config=sharded)
    damage(os.path.join(folder, "sharded"))
    train(os.path.join(folder, "sharded"), make_config=sharded)


def damage(folder):
    """Cut off the newest checkpoint."""
    if comm.is_main_process():
        newest = Path(folder, Path(folder, "last_checkpoint").read_text())
        shard = next(newest.glob("*.distcp"))
        shard.write_bytes(shard.read_bytes()[:-9])
    comm.synchronize()


class WaitForSignal(HookBase):
    """Says in iteration 3 that a signal may come, and waits for it."""

    def before_step(self):
        if self.trainer.iter == 3:
            Path(self.trainer.cfg.OUTPUT_DIR, f"waiting{comm.get_rank()}").touch()
            while not self.trainer._interruption.signal_name:
                time.sleep(0.002)


def train_until_signal(folder):
    """20 iterations; the processes agree on an end after iteration 10."""
    logging.disable(logging.CRITICAL)
    train(folder, until=20, make_config=long_config, hooks=[WaitForSignal()])


def launch_until_signal(folder):
    """Entry point of a process that starts two."""
    launch(train_until_signal, 2, dist_url="auto", args=(folder,))


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    with open(sys.argv[1] + ".starts", "a") as stream:
        stream.write(os.environ["GROUP_RANK"] + "\n")
    launch(train, 1, args=(sys.argv[1], STEPS, [KillOnce()] if sys.argv[2] == "kill" else []))
