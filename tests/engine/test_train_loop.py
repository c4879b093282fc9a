import gc
import logging
import time
import weakref

import pytest
import torch
from torch import nn

from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase, hooks
from detectron2.solver.gradient_clipping import with_clipping
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage


class Model(nn.Module):
    """One linear layer; two losses, or the one that is asked for."""

    def __init__(self, single=False):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 3)
        self.single = single

    def forward(self, x):
        loss = self.fc(x).square().mean()
        return loss if self.single else {"loss_a": loss, "loss_b": 0.5 * loss}


def batches():
    generator = torch.Generator().manual_seed(1)
    while True:
        yield torch.rand(2, 3, generator=generator)


def trainer_of(model=None, loader=None, trainer_class=SimpleTrainer, lr=0.1, **kwargs):
    model = model or Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return trainer_class(model, batches() if loader is None else loader, optimizer, **kwargs)


class Recorder(HookBase):
    def __init__(self, log, name):
        self.log = log
        self.name = name

    def before_train(self):
        self.log.append(f"{self.name} before_train")

    def before_step(self):
        self.log.append(f"{self.name} before_step {self.trainer.iter}")

    def after_backward(self):
        has_gradient = self.trainer.model.fc.weight.grad is not None
        self.log.append(f"{self.name} after_backward {has_gradient}")

    def after_step(self):
        self.log.append(f"{self.name} after_step {self.trainer.storage.iter}")

    def after_train(self):
        self.log.append(f"{self.name} after_train {self.trainer.iter}")


def test_hooks_run_in_the_order_of_their_registration():
    log = []
    trainer = trainer_of()
    trainer.register_hooks([Recorder(log, "a"), None, Recorder(log, "b")])
    trainer.train(4, 6)
    steps = [
        f"{name} {event}"
        for i in (4, 5)
        for event in (f"before_step {i}", "after_backward True", f"after_step {i}")
        for name in "ab"
    ]
    around = [["a before_train", "b before_train"], ["a after_train 6", "b after_train 6"]]
    assert log == around[0] + steps + around[1]
    assert (trainer.start_iter, trainer.iter, trainer.max_iter) == (4, 6, 6)


def test_nothing_but_the_frame_happens_when_no_iteration_is_left():
    log = []
    trainer = trainer_of()
    trainer.register_hooks([Recorder(log, "a")])
    trainer.train(7, 7)
    assert log == ["a before_train", "a after_train 7"]


def test_after_train_runs_after_an_error_too(caplog):
    log = []

    class Broken(Model):
        def forward(self, x):
            raise ValueError("broken model")

    trainer = trainer_of(Broken())
    trainer.register_hooks([Recorder(log, "a")])
    with pytest.raises(ValueError, match="broken model"):
        trainer.train(2, 5)
    assert log[-1] == "a after_train 2"
    assert "iteration 2" in caplog.text


def test_only_hooks_can_be_registered():
    with pytest.raises(TypeError, match="not a HookBase"):
        TrainerBase().register_hooks([print])


def test_a_trainer_must_say_what_an_iteration_does():
    with pytest.raises(NotImplementedError, match="run_step"):
        TrainerBase().run_step()


def test_a_trainer_is_freed_without_the_garbage_collector():
    trainer = trainer_of()
    trainer.register_hooks([Recorder([], "a"), hooks.CallbackHook(after_step=lambda t: None)])
    trainer.train(0, 2)
    alive = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert alive() is None
    finally:
        gc.enable()


class Counter(HookBase):
    def __init__(self):
        self.count = 0

    def after_step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def test_the_state_holds_iteration_optimizer_and_hooks():
    trainer = trainer_of()
    trainer.register_hooks([Recorder([], "stateless"), Counter()])
    trainer.train(0, 3)
    state = trainer.state_dict()
    assert sorted(state) == ["hooks", "iteration", "optimizer"]
    assert state["hooks"] == {"Counter": {"count": 3}}

    other = trainer_of()
    counter = Counter()
    other.register_hooks([counter])
    other.load_state_dict(state)
    assert (other.iter, counter.count) == (3, 3)
    momentum = other.optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, state["optimizer"]["state"][0]["momentum_buffer"])


def test_a_state_of_a_hook_that_is_not_in_use_is_a_warning(caplog):
    trainer = trainer_of()
    trainer.register_hooks([Counter()])
    state = trainer.state_dict()
    trainer_of().load_state_dict(state)
    assert "Counter" in caplog.text


@pytest.mark.parametrize("zero_grad_before_forward", [False, True])
@pytest.mark.parametrize("single", [False, True])
def test_training_is_gradient_descent(single, zero_grad_before_forward):
    trainer = trainer_of(Model(single), zero_grad_before_forward=zero_grad_before_forward)
    trainer.train(0, 5)

    model = Model(single)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _, x in zip(range(5), batches()):
        losses = model(x)
        optimizer.zero_grad()
        (losses if single else sum(losses.values())).backward()
        optimizer.step()
    assert torch.equal(trainer.model.fc.weight, model.fc.weight)


def history(trainer, name):
    return [iteration for _, iteration in trainer.storage.history(name).values()]


@pytest.mark.parametrize("single", [False, True])
def test_losses_are_recorded_by_name(single):
    trainer = trainer_of(Model(single))
    trainer.train(0, 3)
    expected = {"total_loss", "data_time", "rank_data_time"}
    assert set(trainer.storage.latest()) == expected | (set() if single else {"loss_a", "loss_b"})
    if not single:
        latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
        assert latest["total_loss"] == pytest.approx(latest["loss_a"] + latest["loss_b"])


def test_losses_are_recorded_as_rarely_as_asked():
    trainer = trainer_of(gather_metric_period=5)
    trainer.train(0, 12)
    assert history(trainer, "total_loss") == [4, 9]


def test_another_thread_records_every_iteration_in_order():
    class Slow(SimpleTrainer):
        def _write_metrics(self, *args, **kwargs):
            time.sleep(0.01)
            super()._write_metrics(*args, **kwargs)

    trainer = trainer_of(trainer_class=Slow, async_write_metrics=True)
    trainer.train(0, 10)
    assert history(trainer, "total_loss") == list(range(10))


def test_writers_see_the_last_losses_of_another_thread():
    seen = []

    class Writer(EventWriter):
        def write(self):
            seen.append(get_event_storage().latest()["total_loss"][1])

    trainer = trainer_of(async_write_metrics=True)
    trainer.register_hooks([hooks.PeriodicWriter([Writer()])])
    trainer.train(0, 10)
    assert seen[-1] == 9


class Exploding(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.at = at
        self.calls = 0

    def forward(self, x):
        value = float("nan") if self.calls == self.at else 1.0
        self.calls += 1
        return {"loss_ok": self.weight.sum(), "loss_bad": self.weight.sum() * value}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_loss_that_is_not_finite_names_the_iteration_and_the_losses(asynchronous):
    trainer = trainer_of(Exploding(3), async_write_metrics=asynchronous)
    with pytest.raises(FloatingPointError, match=r"iteration 3: total_loss = nan .*'loss_ok': "):
        trainer.train(0, 9)


def test_weights_are_those_before_the_loss_that_is_not_finite():
    trainer = trainer_of(Exploding(2), lr=0.01)
    with pytest.raises(FloatingPointError):
        trainer.train(0, 9)
    assert torch.isfinite(trainer.model.weight).all()


def test_evaluation_mode_is_noticed():
    trainer = trainer_of()
    trainer.register_hooks([hooks.CallbackHook(after_step=lambda t: t.model.eval())])
    with pytest.raises(RuntimeError, match=r"evaluation mode at iteration 1.*model.train\(\)"):
        trainer.train(0, 3)


def test_a_loader_that_ends_is_an_error_with_a_sentence():
    trainer = trainer_of(loader=[torch.ones(1, 3)] * 2)
    with pytest.raises(RuntimeError, match="ended at iteration 2"):
        trainer.train(0, 5)


def test_the_loader_can_be_replaced_after_the_old_one_is_gone():
    class Loader:
        def __iter__(self):
            return batches()

    old = Loader()
    trainer = trainer_of(loader=old)
    trainer.train(0, 2)
    alive = weakref.ref(old)
    del old
    seen = []

    def build():
        seen.append(alive())
        return Loader()

    trainer.reset_data_loader(build)
    trainer.train(2, 4)
    assert seen == [None]
    assert trainer.iter == 4


def test_convention_the_iterator_of_the_loader_is_an_attribute():
    trainer = trainer_of()
    first = next(trainer._data_loader_iter)
    assert torch.equal(first, next(batches()))
    trainer._data_loader_iter = iter([torch.zeros(1, 3)])
    assert next(trainer._data_loader_iter).shape == (1, 3)


class StatefulLoader:
    """Batches that depend on their number alone, so that a position is all there is to keep."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        while True:
            generator = torch.Generator().manual_seed(self.position)
            self.position += 1
            yield torch.rand(2, 3, generator=generator)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def losses_of(trainer):
    return [value for value, _ in trainer.storage.history("total_loss").values()]


def test_a_resumed_training_repeats_the_uninterrupted_one():
    whole = trainer_of(loader=StatefulLoader())
    whole.train(0, 10)

    first = trainer_of(loader=StatefulLoader())
    first.train(0, 4)
    weights, state = first.model.state_dict(), first.state_dict()
    second = trainer_of(loader=StatefulLoader())
    second.model.load_state_dict(weights)
    second.load_state_dict(state)
    second.train(4, 10)
    assert losses_of(first) + losses_of(second) == losses_of(whole)
    assert torch.equal(second.model.fc.weight, whole.model.fc.weight)


def test_convention_steps_of_an_iteration_can_be_replaced_one_by_one():
    class Accumulate(SimpleTrainer):
        def fetch_data(self):
            return [super(Accumulate, self).fetch_data() for _ in range(2)]

        def compute_losses(self, data):
            both = [super(Accumulate, self).compute_losses(x) for x in data]
            return {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}

        def optimizer_step(self):
            if self.iter % 2:
                super().optimizer_step()

    trainer = trainer_of(trainer_class=Accumulate)
    before = trainer.model.fc.weight.detach().clone()
    trainer.train(0, 1)
    assert torch.equal(trainer.model.fc.weight, before)
    trainer.train(1, 2)
    assert not torch.equal(trainer.model.fc.weight, before)


def test_write_metrics_can_be_called_without_a_trainer():
    with EventStorage(3) as storage:
        SimpleTrainer.write_metrics({"a": torch.tensor(1.0), "b": 2.0}, 0.5, 7, prefix="rpn_")
    assert storage.latest()["rpn_total_loss"] == (3.0, 7)
    assert storage.latest()["data_time"] == (0.5, 7)


class Probe(Model):
    def forward(self, x):
        self.dtype = self.fc(x).dtype
        return super().forward(x)


def test_mixed_precision_on_a_cpu_is_bfloat16():
    trainer = trainer_of(Probe(), trainer_class=AMPTrainer, precision=torch.bfloat16)
    before = trainer.model.fc.weight.detach().clone()
    trainer.train(0, 3)
    assert trainer.model.dtype == torch.bfloat16
    assert trainer.model.fc.weight.dtype == torch.float32
    assert not torch.equal(trainer.model.fc.weight, before)
    with pytest.raises(ValueError, match="precision=torch.bfloat16"):
        trainer_of(trainer_class=AMPTrainer)


class CountingScaler:
    """Looks like torch.amp.GradScaler, with a scale of 4."""

    def __init__(self):
        self.calls = []

    def scale(self, loss):
        return loss * 4.0

    def step(self, optimizer):
        self.calls.append("step")
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 4.0
        optimizer.step()

    def update(self):
        self.calls.append("update")

    def get_scale(self):
        return 4.0

    def state_dict(self):
        return {"scale": 4.0, "calls": len(self.calls)}

    def load_state_dict(self, state):
        self.loaded = state


def test_the_scaler_scales_steps_and_is_saved():
    scaled = trainer_of(
        trainer_class=AMPTrainer,
        grad_scaler=CountingScaler(),
        precision=torch.bfloat16,
        log_grad_scaler=True,
    )
    plain = trainer_of(trainer_class=AMPTrainer, precision=torch.bfloat16)
    scaled.train(0, 2)
    plain.train(0, 2)
    torch.testing.assert_close(scaled.model.fc.weight, plain.model.fc.weight)
    assert scaled.grad_scaler.calls == ["step", "update"] * 2
    assert scaled.storage.latest()["[metric]grad_scaler"] == (4.0, 1)

    state = scaled.state_dict()
    scaled.load_state_dict(state)
    assert scaled.grad_scaler.loaded == {"scale": 4.0, "calls": 4}
    scaled.load_state_dict(plain.state_dict())  # trained without a scale so far


def test_mixed_precision_refuses_several_gpus_in_one_process():
    with pytest.raises(ValueError, match="one process per GPU"):
        trainer_of(nn.DataParallel(Model()), trainer_class=AMPTrainer, precision=torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision_on_a_gpu_is_float16(fused):
    model = Probe().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    trainer = AMPTrainer(model, (x.cuda() for x in batches()), optimizer)
    trainer.train(0, 3)
    assert model.dtype == torch.float16
    assert trainer.state_dict()["grad_scaler"]["scale"] == 2.0**16


def clipped_weights(optimizer_type, fused, device, **kwargs):
    """After five steps in mixed precision with gradients clipped to a small norm."""
    torch.manual_seed(0)
    model = Model().to(device)
    clipping = with_clipping(optimizer_type, lambda p: nn.utils.clip_grad_norm_(p, 0.01))
    optimizer = clipping(model.parameters(), lr=0.1, fused=fused)
    trainer = AMPTrainer(model, (x.to(device) for x in batches()), optimizer, **kwargs)
    trainer.train(0, 5)
    return model.fc.weight.detach().cpu()


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
def test_a_fused_optimizer_with_a_scaler_clips_unscaled_gradients(optimizer_type):
    def weights(fused, scale):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        kwargs = {"grad_scaler": scaler, "precision": torch.bfloat16}
        return clipped_weights(optimizer_type, fused, "cpu", **kwargs)

    expected = weights(False, 1.0)
    torch.testing.assert_close(weights(True, 1024.0), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights(False, 1024.0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
def test_a_fused_optimizer_on_a_gpu_clips_and_trains_like_a_plain_one(optimizer_type, precision):
    fused, plain = (
        clipped_weights(optimizer_type, fused, "cuda", precision=precision)
        for fused in (True, False)
    )
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_mixed_precision_on_a_gpu_can_be_bfloat16_without_a_scale():
    model = Probe().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = (x.cuda() for x in batches())
    trainer = AMPTrainer(model, loader, optimizer, precision=torch.bfloat16)
    trainer.train(0, 3)
    assert model.dtype == torch.bfloat16 and not trainer.grad_scaler.is_enabled()


def test_the_log_says_where_training_begins(caplog):
    with caplog.at_level(logging.INFO):
        trainer_of().train(3, 4)
    assert "Starting training from iteration 3" in caplog.text
