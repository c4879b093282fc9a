import csv
import io
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from toy_project import ToyDetector, ToyTrainer, forget_dataset, register_dataset, toy_config

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint._background import snapshot
from detectron2.config import get_cfg
from detectron2.config.training_defaults import TRAINING
from detectron2.engine import HookBase, SimpleTrainer, hooks
from detectron2.engine._batch_parts import BatchParts
from detectron2.engine._extra_hooks import progress_bar
from detectron2.engine._prepare_model import (
    compile_backbone,
    freeze_parameters,
    prepare_model,
    recompute_blocks,
)
from detectron2.engine._recipe import _merged, recipe_of
from detectron2.engine._scale_workers import scale_to_batch
from detectron2.engine._slurm import SlurmPlace, slurm_place
from detectron2.engine._trainer_base import WorkerKilledError
from detectron2.engine.training_report import ReportWriter
from detectron2.layers import CNNBlockBase
from detectron2.utils.events import EventStorage
from detectron2.utils.writers import CSVWriter, MLflowWriter, WandbWriter


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    name = register_dataset(tmp_path / "images", f"toy_{tmp_path.name}")
    yield toy_config(tmp_path / "out", name)
    forget_dataset(name)


def train(cfg, trainer_class=ToyTrainer, resume=False):
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_everything_together(cfg):
    cfg.TRAINING.EMA.ENABLED = True
    cfg.TRAINING.BEST.METRIC = "toy/score"
    cfg.TRAINING.BEST.KEEP = 2
    cfg.TRAINING.VALIDATION_BATCHES = 2
    cfg.TRAINING.WRITERS = ("csv", "report")
    cfg.TRAINING.FREEZE = ("norm.",)
    cfg.TRAINING.CHANNELS_LAST = True
    cfg.TRAINING.ACCUMULATION_STEPS = 2
    cfg.TEST.EVAL_PERIOD = 2
    trainer = train(cfg)
    files = set(os.listdir(cfg.OUTPUT_DIR))
    assert {"metrics.csv", "training.html", "model_ema.safetensors"} <= files
    assert len([name for name in files if name.startswith("model_best_")]) == 2
    latest = trainer.storage.latest()
    assert latest["validation/total_loss"][1] == 5
    assert torch.equal(trainer.model.norm.weight, torch.ones(3))
    assert not trainer.model.norm.weight.requires_grad
    page = Path(cfg.OUTPUT_DIR, "training.html").read_text()
    assert "6 of 6 iterations; ended" in page and "refresh" not in page
    assert ">validation<" in page and ">total_loss<" in page and page.count("<figure>") == 4
    assert "Images per second" in page
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.csv")) as stream:
        assert [row["iteration"] for row in csv.DictReader(stream)][-1] == "6"


def test_the_average_follows_the_weights():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = hooks.EMAHook(model, decay=0.5)
    ema.before_train()
    nn.init.ones_(model.weight)
    ema.after_step()  # decay (1 + 1) / (10 + 1) at the first step
    with ema.applied():
        assert model.weight.item() == pytest.approx(9 / 11)
    assert model.weight.item() == 1.0
    other = hooks.EMAHook(nn.Linear(1, 1, bias=False), decay=0.5)
    other.load_state_dict(ema.state_dict())
    with other.applied():
        assert other._model.weight.item() == pytest.approx(9 / 11)


def test_the_average_is_resumed(cfg):
    cfg.TRAINING.EMA.ENABLED = True
    first = train(cfg)
    resumed = ToyTrainer(cfg)
    resumed.resume_or_load(resume=True)
    for name, value in first._averaging._average.items():
        assert torch.equal(value, resumed._averaging._average[name])


def test_training_stops_when_the_metric_does_not_become_better(cfg):
    cfg.TRAINING.BEST.METRIC = "toy/images"
    cfg.TRAINING.PATIENCE = 2
    cfg.TEST.EVAL_PERIOD = 1
    cfg.SOLVER.MAX_ITER = 50
    trainer = train(cfg)
    assert trainer.iter == trainer.max_iter == 3
    assert "model_final.pth" in os.listdir(cfg.OUTPUT_DIR)


def test_patience_needs_a_metric(cfg):
    cfg.TRAINING.PATIENCE = 2
    with pytest.raises(ValueError, match="needs TRAINING.BEST.METRIC"):
        ToyTrainer(cfg)


def test_unknown_names_are_explained(cfg):
    cfg.TRAINING.WRITERS = ("tabel",)
    with pytest.raises(ValueError, match="'tabel'; use some of csv"):
        ToyTrainer(cfg)
    cfg.TRAINING.WRITERS = ()
    cfg.TRAINING.FREEZE = ("backbone.",)
    with pytest.raises(ValueError, match="model's parts are layer, norm"):
        ToyTrainer(cfg)


def test_the_validation_loss_changes_nothing():
    torch.manual_seed(0)
    model = ToyDetector()
    batch = [{"image": torch.full((3, 2, 2), 50.0 * i)} for i in range(3)]
    hook = hooks.ValidationLoss(1, model.train(), [batch])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = hook.compute(), hook.compute()
    assert first == second and first["total_loss"] == first["loss_colour"] > 0
    assert torch.equal(torch.get_rng_state(), state) and model.norm.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def quadratic(splits=1, **options):
    """A trainer of a linear model on batches of four."""
    torch.manual_seed(0)

    class Model(nn.Linear):
        largest = 99

        def forward(self, batch):
            if len(batch) > self.largest:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return {"loss": super().forward(torch.stack(batch)).square().mean()}

    def loader():
        generator = torch.Generator().manual_seed(1)
        while True:
            yield list(torch.rand(4, 3, generator=generator))

    model = Model(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(model, loader(), optimizer, **options)
    trainer._parts.splits = splits
    return trainer


def losses_of(trainer):
    return [value for value, _ in trainer.storage.history("total_loss").values()]


@pytest.mark.parametrize("early", [True, False])
def test_gradients_of_parts_are_those_of_the_batch(early):
    whole = quadratic()
    whole.train(0, 5)
    parts = quadratic(splits=3, zero_grad_before_forward=early)  # parts of 2 and 2 images
    parts.train(0, 5)
    assert losses_of(parts) == pytest.approx(losses_of(whole))
    assert torch.allclose(parts.model.weight, whole.model.weight)


def test_accumulated_batches_are_one_step():
    trainer = quadratic()
    trainer.accumulation_steps = 3
    before = trainer.model.weight.clone()
    trainer.train(0, 1)
    other = quadratic()
    batches = [next(other._data_loader_iter) for _ in range(3)]
    loss = sum(other.model(batch)["loss"] for batch in batches) / 3
    loss.backward()
    assert losses_of(trainer) == pytest.approx([loss.item()])
    assert torch.allclose(before - 0.1 * other.model.weight.grad, trainer.model.weight)


def test_short_memory_makes_parts_and_says_so(caplog):
    whole, short = quadratic(), quadratic()
    whole.train(0, 3)
    short.model.largest = 1
    short.train(0, 3)
    assert losses_of(short) == pytest.approx(losses_of(whole))
    assert "each batch of 4 images is computed in 4 parts" in caplog.text
    short.model.largest = 0
    with pytest.raises(torch.OutOfMemoryError, match=r"smaller SOLVER\.IMS_PER_BATCH"):
        short.train(3, 4)


def test_recomputed_blocks_have_the_same_gradients():
    class Block(CNNBlockBase):
        def __init__(self):
            super().__init__(3, 3, 1)
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.conv(x).relu()

    torch.manual_seed(0)
    model, x = nn.Sequential(Block(), Block()), torch.rand(1, 3, 9, 9)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        recompute_blocks(model)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    with pytest.raises(ValueError, match="no blocks"):
        recompute_blocks(nn.Linear(1, 1))


def test_frozen_parameters_are_named():
    model = ToyDetector()
    freeze_parameters(model, ["layer.b"])
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["layer.bias"]


def test_a_table_gets_columns_and_is_continued(tmp_path):
    path = str(tmp_path / "table.csv")

    def write(start, stop, **scalars):
        writer = CSVWriter(path)
        with EventStorage(start) as storage:
            for storage.iter in range(start, stop):
                storage.put_scalars(smoothing_hint=False, **scalars)
                writer.write()

    write(0, 3, loss=1.5)
    write(2, 4, loss=2.5, lr=0.5)
    expected = ["iteration,loss,lr", "0,1.5,", "1,1.5,", "2,2.5,0.5", "3,2.5,0.5"]
    assert Path(path).read_text().splitlines() == expected


def test_a_page_of_a_running_training_is_loaded_again(tmp_path):
    metrics = {"bbox/AP": 12.5, "bbox/AP-cat": 1.0}
    line = {"iteration": 3, "total_loss": 2.0, "loss_a": 1.0, "rpn/anchors": 7.0, **metrics}
    (tmp_path / "metrics.json").write_text(json.dumps(line) + "\n" + '{"iterat')
    writer = ReportWriter(str(tmp_path), 10)
    with EventStorage(3) as storage:
        storage.put_scalars(smoothing_hint=False, **metrics)
        storage.put_scalar("rpn/anchors", 7.0)
        writer.write()
    page = (tmp_path / "training.html").read_text()
    assert 'http-equiv="refresh"' in page and "4 of 10 iterations; running" in page
    assert "bbox/AP<" in page and "AP-cat" not in page and "anchors" not in page
    writer.close()
    assert "refresh" not in (tmp_path / "training.html").read_text()


def test_a_hook_may_end_the_training_early():
    class Stop(HookBase):
        def after_step(self):
            if self.trainer.iter == 2:
                self.trainer.max_iter = 3

    trainer = quadratic()
    trainer.register_hooks([Stop()])
    trainer.train(0, 10)
    assert trainer.iter == 3


STEP = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
}


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("gpu[03-05,9]", "gpu03"), ("a,b", "a"), ("one", "one"), ("n[1,7]-x.org", "n1-x.org")],
)
def test_the_place_of_a_task_of_srun(hosts, first):
    place = slurm_place({**STEP, "SLURM_STEP_NODELIST": hosts})
    assert place == SlurmPlace(5, 8, 1, 4, f"tcp://{first}:30001")


def test_a_batch_script_and_a_single_task_are_no_step():
    assert slurm_place({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert slurm_place({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) is None
    with pytest.raises(ValueError, match="unevenly"):
        slurm_place({**STEP, "SLURM_STEP_TASKS_PER_NODE": "3,1"})


def test_parts_of_what_is_no_list_stay_whole():
    parts = BatchParts()
    parts.splits = 4
    assert list(parts._divided(["batch"])) == [("batch", 1.0)]


def test_the_linear_rule_for_another_batch_size():
    reference = get_cfg()
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.WARMUP_ITERS = 77
    cfg.TEST.EVAL_PERIOD = 0
    said = scale_to_batch(cfg, reference)
    assert cfg.SOLVER.BASE_LR == 0.001 / 4
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (160000, (120000,))
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.TEST.EVAL_PERIOD) == (77, 0)
    assert "SOLVER.MAX_ITER: 40000 -> 160000" in said
    assert "SOLVER.WARMUP_ITERS stays 77, as given" in said
    assert scale_to_batch(get_cfg(), reference) == []


def test_a_killed_data_loading_process_is_one_sentence(caplog):
    class Kill(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield torch.rand(4, 3)
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = quadratic()
    trainer.reset_data_loader(
        lambda: torch.utils.data.DataLoader(Kill(), batch_size=None, num_workers=1)
    )
    trainer.model.forward = lambda batch: {"loss": trainer.model.weight.sum() * batch.sum()}
    with pytest.raises(WorkerKilledError, match="killed a data loading process at iteration"):
        trainer.train(0, 5)
    assert not any(record.exc_info for record in caplog.records)


def test_a_checkpoint_of_another_model_is_not_resumed(tmp_path):
    first = DetectionCheckpointer(nn.Linear(3, 5), str(tmp_path))
    first.save("model_0000003", iteration=3)
    second = DetectionCheckpointer(nn.Linear(3, 7), str(tmp_path))
    with pytest.raises(ValueError, match=r"weight is \(5, 3\) there and \(7, 3\) here"):
        second.resume_or_load("", resume=True)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    resource = pytest.importorskip("resource")
    model = nn.Linear(10, 10)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.in_background = True
    checkpointer.save("model_0000003", iteration=3)
    checkpointer.wait()
    model.more = nn.Linear(1000, 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        checkpointer.save("model_0000007", iteration=7)
        with pytest.raises(OSError, match=r"cannot be written \(File too large\); the one before"):
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000003.pth"]
    assert checkpointer.get_checkpoint_file().endswith("model_0000003.pth")


def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_taken(tmp_path, caplog):
    model = nn.Linear(100, 100)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    for iteration in (3, 7):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    damaged = tmp_path / "model_0000007.pth"
    content = bytearray(damaged.read_bytes())
    content[20_000] ^= 1
    damaged.write_bytes(content)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 3
    assert "Resumed from" in caplog.text and "the sum of its part" in caplog.text


def test_what_a_killed_process_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f".a.pth.{pid}.0123abcd.part" for pid in (ended.pid, os.getppid(), os.getpid())]
    for name in names:
        (tmp_path / name).touch()
    DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path)).resume_or_load("", resume=True)
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


def test_tensors_that_share_memory_are_copied_once():
    weight = torch.rand(4)
    tree = {"a": weight, "b": [weight.view(4), weight[1:]], "c": 3}
    copy = snapshot(tree)
    assert copy["a"] is copy["b"][0] and copy["a"] is not weight
    weight.zero_()
    assert copy["a"].sum() > 0 and copy["c"] == 3


def test_the_best_checkpoints_are_kept_over_a_resume(tmp_path):
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path))
    values = iter([0.3, 0.5, 0.4, 0.1, 0.6])

    def run(start, stop, state):
        best = hooks.BestCheckpointer(1, checkpointer, "score", keep=2)
        if state:
            best.load_state_dict(state)
        trainer = quadratic()
        trainer.register_hooks([hooks.EvalHook(1, lambda: {"score": next(values)}), best])
        trainer.train(start, stop)
        return best.state_dict()

    state = run(0, 3, None)
    run(3, 5, state)
    names = sorted(name for name in os.listdir(tmp_path) if name.startswith("model_best"))
    assert names == ["model_best_0000001.pth", "model_best_0000005.pth"]


class Service:
    """Stands for the modules of W&B and MLflow."""

    def __init__(self):
        self.run = self
        self.sent = []
        self.ended = 0

    def log(self, values, step):
        self.sent.append((step, values))

    def log_metrics(self, values, step):
        self.sent.append((step, values))

    def active_run(self):
        return self

    def finish(self):
        self.ended += 1

    end_run = finish


@pytest.mark.parametrize(("name", "writer"), [("wandb", WandbWriter), ("mlflow", MLflowWriter)])
def test_services_get_each_scalar_once(monkeypatch, name, writer):
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    writing = writer()
    with EventStorage() as storage:
        for value in (1.0, 2.0):
            storage.put_scalars(a=value, b=3.0, smoothing_hint=False)
            writing.write()
            writing.write()
            storage.step()
    writing.close()
    assert service.sent == [(0, {"a": 1.0, "b": 3.0}), (1, {"a": 2.0, "b": 3.0})]
    assert service.ended == 1
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        writer()


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).relu()


class WithBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Trunk()

    def forward(self, x):
        return self.backbone(x).square().mean()


def test_a_compiled_backbone_has_the_same_names_losses_and_gradients():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model = WithBackbone()
    images = torch.rand(2, 3, 8, 8)
    names = list(model.state_dict())

    def step():
        model.zero_grad()
        loss = model(images)
        loss.backward()
        return loss.detach(), model.backbone.conv.weight.grad.clone()

    expected = step()
    prepare_model(model, _merged(TRAINING, {"COMPILE": {"ENABLED": True, "BACKEND": backend}}))
    torch.testing.assert_close(step(), expected)
    assert compiled and list(model.state_dict()) == names
    with pytest.raises(ValueError, match="Linear has none"):
        compile_backbone(nn.Linear(1, 1), "inductor")


def test_a_bar_shows_images_per_second_and_log_lines_stay_whole(cfg, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    trainer = ToyTrainer(cfg)
    trainer.register_hooks([hooks.ProgressBar(2, console)])
    handler = logging.StreamHandler(sys.__stderr__)
    monkeypatch.setattr(logging.getLogger("detectron2"), "handlers", [handler])
    trainer.train()
    assert handler.stream is sys.__stderr__
    text = screen.getvalue()
    assert "6/6" in text and "images/s" in text and "loss" in text


def test_a_bar_needs_a_terminal(cfg, monkeypatch):
    recipe = recipe_of(cfg)
    assert recipe.images_per_iteration == 2 and progress_bar(recipe) is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert progress_bar(recipe) is not None
    cfg.TRAINING.PROGRESS_BAR = False
    assert progress_bar(recipe_of(cfg)) is None
