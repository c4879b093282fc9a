import gc
import json
import logging
import os
import time
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from toy_project import (
    LAZY_CONFIG,
    CountImages,
    ToyDetector,
    ToyTrainer,
    colours_forever,
    forget_dataset,
    register_dataset,
    toy_config,
)

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig
from detectron2.data import MetadataCatalog
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, hooks
from detectron2.evaluation.default_evaluators import EVALUATORS
from detectron2.utils.env import seed_all_rng


class OwnInit(ToyTrainer):
    """Builds its parts by itself, as projects do that train a teacher beside the model."""

    def __init__(self, cfg):
        super(DefaultTrainer, self).__init__()
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._trainer = SimpleTrainer(model, self.build_train_loader(cfg), optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.register_hooks(self.build_hooks())


@pytest.fixture
def dataset(tmp_path):
    name = register_dataset(tmp_path / "images", f"toy_{tmp_path.name}")
    yield name
    forget_dataset(name)


@pytest.fixture
def cfg(tmp_path, dataset, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    return toy_config(tmp_path / "out", dataset)


def read_metrics(cfg):
    with open(os.path.join(cfg.OUTPUT_DIR, "metrics.json")) as stream:
        return [json.loads(line) for line in stream]


def test_a_config_is_all_a_training_needs(cfg):
    trainer = ToyTrainer(cfg)
    trainer.resume_or_load(resume=False)
    assert trainer.train() is None
    assert trainer.iter == trainer.max_iter == 6
    files = {name for name in os.listdir(cfg.OUTPUT_DIR) if "events" not in name}
    assert files == {"metrics.json", "last_checkpoint", "model_final.pth"}
    lines = read_metrics(cfg)
    assert [line["iteration"] for line in lines] == [5, 6]
    assert {"total_loss", "lr", "time", "data_time", "images_per_second"} <= set(lines[0])
    assert lines[1]["toy/images"] == 4


def test_convention_the_model_is_the_inner_trainers():
    class Trainer(DefaultTrainer):
        def __init__(self):
            self._trainer = SimpleTrainer(nn.Linear(1, 1), [1], torch.optim.SGD([torch.zeros(1)]))

    trainer = Trainer()
    for name in ("model", "data_loader", "optimizer"):
        replacement = nn.Linear(2, 2)
        setattr(trainer, name, replacement)
        assert getattr(trainer, name) is getattr(trainer._trainer, name) is replacement


def test_convention_a_trainer_may_have_an_init_of_its_own(cfg):
    trainer = OwnInit(cfg)
    trainer.train()
    assert trainer.iter == 6 and len(read_metrics(cfg)) == 2
    cfg.SOLVER.MAX_ITER = 8
    resumed = OwnInit(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 6
    resumed.train()


def test_convention_results_are_an_attribute_only_after_an_evaluation(cfg):
    trainer = ToyTrainer(cfg)
    assert not hasattr(trainer, "_last_eval_results")
    trainer._test_and_remember()
    assert trainer._last_eval_results


def test_convention_the_order_of_hooks(cfg):
    names = [type(hook).__name__ for hook in ToyTrainer(cfg)._hooks]
    order = ["IterationTimer", "LRScheduler", "PeriodicCheckpointer", "EvalHook", "PeriodicWriter"]
    assert names == order
    cfg.TEST.PRECISE_BN.ENABLED = True
    names = [type(hook).__name__ for hook in ToyTrainer(cfg)._hooks]
    assert names == [*order[:2], "PreciseBN", *order[2:]]


def test_precise_batch_norm_uses_batches_of_the_training_data(cfg):
    cfg.TEST.PRECISE_BN.ENABLED = True
    cfg.TEST.PRECISE_BN.NUM_ITER = 3
    trainer = ToyTrainer(cfg)
    trainer.train()
    (hook,) = (hook for hook in trainer._hooks if isinstance(hook, hooks.PreciseBN))
    assert hook._data_iter is not None
    assert trainer.cfg.DATALOADER.NUM_WORKERS == cfg.DATALOADER.NUM_WORKERS


class DrawsWhenItStarts:
    """Like a DataLoader, which draws a seed for its workers when its iterator is made."""

    def __iter__(self):
        np.random.rand()
        torch.rand(1)
        return colours_forever()


class Noise(ToyTrainer):
    """Data and dropout depend on the global generators: every one of them has to continue."""

    @classmethod
    def build_train_loader(cls, cfg):
        return DrawsWhenItStarts()


def losses_of(trainer):
    history = trainer.storage.history("total_loss").values()
    return [value for value, at in history if at >= trainer.start_iter]


def run(cfg, until, resume):
    seed_all_rng(cfg.SEED)
    trainer = Noise(cfg)
    trainer.resume_or_load(resume=resume)
    whole = trainer.max_iter
    trainer.max_iter = until
    trainer.train()
    trainer.max_iter = whole
    return trainer


def test_a_resumed_training_repeats_the_uninterrupted_one(cfg, tmp_path):
    whole = run(cfg, 6, resume=False)
    cfg.OUTPUT_DIR = str(tmp_path / "interrupted")
    first = run(cfg, 3, resume=False)
    second = run(cfg, 6, resume=True)
    assert second.start_iter == 3
    assert losses_of(first) == losses_of(whole)[:3]
    assert losses_of(second) == losses_of(whole)[3:]
    assert torch.equal(second.model.layer.weight, whole.model.layer.weight)
    rates = [
        [v for v, at in trainer.storage.history("lr").values() if at >= trainer.start_iter]
        for trainer in (whole, first, second)
    ]
    assert rates[1] + rates[2] == rates[0]


def test_random_numbers_of_a_resumed_training_do_not_begin_anew(cfg):
    first = run(cfg, 3, resume=False)
    second = run(cfg, 6, resume=True)
    assert losses_of(second) != losses_of(first)


def test_a_checkpoint_without_random_generators_can_be_resumed(cfg):
    first = run(cfg, 3, resume=False)
    state = first.state_dict()
    del state["random_state"]
    second = Noise(cfg)
    second.load_state_dict(state)
    assert second.iter == first.iter


def test_the_checkpoint_is_stronger_than_the_new_config(cfg):
    class StepLR(Noise):
        @classmethod
        def build_lr_scheduler(cls, cfg, optimizer):
            return torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.1)

    cfg.SOLVER.CHECKPOINT_PERIOD = 6
    trainer = StepLR(cfg)
    trainer.train()
    cfg.SOLVER.BASE_LR = 77.0
    resumed = StepLR(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.iter == 5
    assert resumed.start_iter == 6
    assert resumed.scheduler.last_epoch == 6
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_without_a_checkpoint_training_begins_with_the_weights_of_the_config(cfg, tmp_path):
    weights = ToyDetector().state_dict()
    torch.save({"model": weights, "iteration": 99}, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    trainer = ToyTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
    assert torch.equal(trainer.model.layer.weight, weights["layer.weight"])


def test_hooks_see_the_gradients(cfg):
    seen = []

    class Look(HookBase):
        def after_backward(self):
            seen.append((self.trainer.iter, self.trainer.model.layer.weight.grad is not None))

    trainer = ToyTrainer(cfg)
    trainer.register_hooks([Look()])
    trainer.train()
    assert seen == [(i, True) for i in range(6)]


def test_a_trainer_is_freed_without_the_garbage_collector(cfg):
    trainer = ToyTrainer(cfg)
    trainer.train()
    model, alive = weakref.ref(trainer.model), weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert alive() is None
        # A thread of the trainer may be about to end, and lets go of the model when it does.
        deadline = time.monotonic() + 10
        while model() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert model() is None
    finally:
        gc.enable()


def test_mixed_precision_on_a_cpu_is_bfloat16(cfg):
    cfg.SOLVER.AMP.ENABLED = True
    trainer = ToyTrainer(cfg)
    assert isinstance(trainer._trainer, AMPTrainer)
    assert trainer._trainer.precision == torch.bfloat16
    trainer.train()


def test_evaluation_may_be_periodic(cfg):
    cfg.TEST.EVAL_PERIOD = 2
    trainer = ToyTrainer(cfg)
    trainer.train()
    at = [iteration for _, iteration in trainer.storage.history("toy/images").values()]
    assert at == [1, 3, 6]


def test_expected_results_are_verified_and_returned(cfg):
    cfg.TEST.EXPECTED_RESULTS = [["toy", "images", 4, 0.0]]
    assert ToyTrainer(cfg).train()["toy"]["images"] == 4
    cfg.TEST.EXPECTED_RESULTS = [["toy", "images", 7, 1.0]]
    with pytest.raises(SystemExit):
        ToyTrainer(cfg).train()


def test_several_datasets_are_told_apart(cfg, tmp_path):
    other = register_dataset(tmp_path / "others", f"other_{tmp_path.name}", images=3)
    try:
        cfg.DATASETS.TEST = (*cfg.DATASETS.TEST, other)
        results = ToyTrainer.test(cfg, ToyDetector().eval())
        assert [result["toy"]["images"] for result in results.values()] == [4, 3]
        assert list(results) == list(cfg.DATASETS.TEST)
        with pytest.raises(ValueError, match="1 evaluators for 2 datasets"):
            ToyTrainer.test(cfg, ToyDetector().eval(), CountImages())
    finally:
        forget_dataset(other)


def test_evaluators_may_be_given(cfg):
    class Fixed(CountImages):
        def evaluate(self):
            return {"fixed": {"x": 1.0}}

    for given in (Fixed(), [Fixed()]):
        assert ToyTrainer.test(cfg, ToyDetector().eval(), given) == {"fixed": {"x": 1.0}}


def test_the_metadata_of_a_dataset_chooses_its_evaluator(cfg, monkeypatch):
    made = []

    def make(name, output_dir, cfg):
        made.append((name, output_dir, cfg.SEED))
        return CountImages()

    monkeypatch.setitem(EVALUATORS, "toy_type", (make,))
    (name,) = cfg.DATASETS.TEST
    MetadataCatalog.get(name).evaluator_type = "toy_type"
    assert DefaultTrainer.test(cfg, ToyDetector().eval())["toy"]["images"] == 4
    assert made == [(name, os.path.join(cfg.OUTPUT_DIR, "inference"), cfg.SEED)]


def test_a_dataset_of_no_known_type_is_left_out_with_a_warning(cfg, caplog):
    assert DefaultTrainer.test(cfg, ToyDetector().eval()) == {}
    assert "evaluator_type None" in caplog.text


def test_a_dataset_without_an_evaluator_is_left_out_with_a_warning(cfg, caplog):
    class Trainer(DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            raise NotImplementedError("no idea how")

    assert Trainer.test(cfg, ToyDetector().eval()) == {}
    assert "no idea how" in caplog.text


def test_metrics_must_be_a_dictionary(cfg):
    class Wrong(CountImages):
        def evaluate(self):
            return 3.0

    with pytest.raises(TypeError, match="returned a float"):
        ToyTrainer.test(cfg, ToyDetector().eval(), Wrong())


def test_a_log_is_set_up_for_scripts_that_forgot_it(cfg):
    logger = logging.getLogger("detectron2")
    logger.setLevel(logging.WARNING)
    ToyTrainer(cfg)
    assert logger.isEnabledFor(logging.INFO)


def scaled(cfg, reference, workers):
    cfg.SOLVER.REFERENCE_WORLD_SIZE = reference
    cfg.SOLVER.IMS_PER_BATCH = 16
    cfg.SOLVER.BASE_LR = 0.02
    cfg.SOLVER.MAX_ITER = 90000
    cfg.SOLVER.STEPS = (60000, 80000)
    cfg.SOLVER.WARMUP_ITERS = 1000
    cfg.TEST.EVAL_PERIOD = 700
    return DefaultTrainer.auto_scale_workers(cfg, workers)


@pytest.mark.parametrize(("workers", "factor"), [(4, 0.5), (16, 2)])
def test_the_schedule_is_scaled_to_the_number_of_workers(cfg, workers, factor):
    new = scaled(cfg, 8, workers)
    solver = new.SOLVER
    assert [workers, 16 * factor] == [solver.REFERENCE_WORLD_SIZE, solver.IMS_PER_BATCH]
    assert solver.BASE_LR == pytest.approx(0.02 * factor)  # noqa: SIM300
    lengths = [solver.MAX_ITER, *solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD]
    expected = [90000, 60000, 80000, 1000, 5000, 700]
    assert [*lengths, new.TEST.EVAL_PERIOD] == [length / factor for length in expected]
    assert cfg.SOLVER.MAX_ITER == 90000
    assert scaled(cfg, 8, 8) is cfg
    assert scaled(cfg, 0, workers) is cfg


def test_a_frozen_config_stays_frozen_when_scaled(cfg):
    scaled(cfg, 8, 4)
    cfg.freeze()
    assert DefaultTrainer.auto_scale_workers(cfg, 4).is_frozen()


def test_a_batch_that_cannot_be_divided_is_refused(cfg):
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 3
    cfg.SOLVER.IMS_PER_BATCH = 16
    with pytest.raises(AssertionError, match="IMS_PER_BATCH = 16 is no multiple"):
        DefaultTrainer.auto_scale_workers(cfg, 2)


@pytest.fixture
def lazy_file(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(LAZY_CONFIG.replace("OUTPUT", str(tmp_path / "lazy_out")))
    return path


@pytest.mark.parametrize("as_object", [False, True])
def test_a_lazy_config_is_trained_in_the_same_way(lazy_file, tmp_path, as_object):
    np.random.seed(0)
    source = LazyConfig.load(str(lazy_file)) if as_object else str(lazy_file)
    trainer = DefaultTrainer(source)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.iter == 5
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    assert trainer.storage.latest()["toy/images"] == (3.0, 5)
    files = set(os.listdir(tmp_path / "lazy_out"))
    assert {"metrics.json", "model_final.pth", "last_checkpoint"} <= files
    assert "model_0000001.pth" not in files
    resumed = DefaultTrainer(source)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 5


def test_the_optimizer_of_a_lazy_config_is_fused_unless_it_says_otherwise(lazy_file):
    source = LazyConfig.load(str(lazy_file))
    assert DefaultTrainer(source).optimizer.defaults["fused"] is True
    source.optimizer.foreach = True
    assert not DefaultTrainer(source).optimizer.defaults["fused"]


def test_a_yaml_file_is_trained_in_the_same_way(cfg, tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(cfg.dump())
    trainer = ToyTrainer(path)
    assert trainer.max_iter == 6
    assert trainer.cfg.OUTPUT_DIR == cfg.OUTPUT_DIR


def test_what_needs_the_whole_model_is_refused_with_a_sharded_one(cfg):
    cfg.TRAINING.FSDP.ENABLED = True
    cfg.TRAINING.EMA.ENABLED = True
    with pytest.raises(ValueError, match="FSDP shards the model, and TRAINING.EMA.ENABLED needs"):
        ToyTrainer(cfg)
