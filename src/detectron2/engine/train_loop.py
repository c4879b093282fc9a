"""The training loop: what one iteration does, in full or in mixed precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from detectron2.engine._batch_parts import BatchParts
from detectron2.engine._copy_ahead import BatchesAhead, data_position
from detectron2.engine._loss_record import record_losses
from detectron2.engine._step_guard import StepGuard, gradient_norm
from detectron2.engine._trainer_base import HookBase, TrainerBase, WorkerKilledError
from detectron2.utils import comm
from detectron2.utils._deferred import Check, collected_checks
from detectron2.utils.events import get_event_storage

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one loader: forward, backward, step.

    An iteration is made of small methods: a subclass with two losses, two optimizers or
    other gradients replaces `fetch_data`, `compute_losses`, `backward` or `optimizer_step`
    rather than `run_step`.

    Attributes:
        accumulation_steps: batches whose gradients are averaged for one step.
        guard: skips steps whose numbers are not finite; None stops at the first. It needs the
            losses before the step, so with `async_write_metrics` there is none.
        prefetch: whether the batches of the next step are fetched, and copied to the GPU, while
            the GPU computes gradients; None does so if the model is on a CUDA device.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """
        Args:
            model: takes what the loader yields and returns a loss or a dictionary of them. It
                is set to training mode.
            data_loader: iterable without an end.
            optimizer: of the model's parameters.
            gather_metric_period: iterations between two records of the losses. Recording
                waits for the GPU and for the other processes.
            zero_grad_before_forward: clear the gradients before rather than after the forward
                pass, which saves their memory during it.
            async_write_metrics: record the losses in another thread. A loss that is not
                finite then stops the training one iteration late.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self.accumulation_steps = 1
        self.guard: StepGuard | None = None
        self.prefetch: bool | None = None
        self._parts = BatchParts()
        self._ahead = BatchesAhead()
        self._checks: list[Check] = []
        self._iterator: Iterator[Any] | None = None
        self._metric_writer: ThreadPoolExecutor | None = None
        self._pending_metrics: Future[None] | None = None
        self._metric_group: Any = None

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        # Made at the first use: a loader starts its workers here.
        if self._iterator is None:
            self._iterator = iter(self.data_loader)
        return self._iterator

    @_data_loader_iter.setter
    def _data_loader_iter(self, iterator: Iterator[Any] | None) -> None:
        self._iterator = iterator
        self._ahead.clear()

    def reset_data_loader(self, data_loader_builder: Callable[[], Any]) -> None:
        """Replace the loader by a new one, freeing the old one before the new one is built."""
        self._data_loader_iter = None
        self.data_loader = None
        self.data_loader = data_loader_builder()

    def run_step(self) -> None:
        """Forward, backward and optimizer step on the next batch; the losses are recorded."""
        if not self.model.training:
            raise RuntimeError(
                f"The model is in evaluation mode at iteration {self.iter}. A hook or an "
                "evaluation forgot to call model.train() at its end."
            )
        batches, data_time = self._ahead.take(self)
        guard = self._active_guard
        if guard is not None:
            guard.before_forward(self.model)
        try:
            with collected_checks(self._checks):
                loss_dict = self._parts.gradients(self, batches)
        except FloatingPointError as error:  # the model itself noticed
            # The other processes, if any, wait for this one's gradients.
            if guard is None or comm.get_world_size() > 1:
                raise
            guard.skip(self, batches, error)
            return
        self.after_backward()
        # The GPU is busy with the gradients now, and what comes next waits for them.
        self._ahead.fetch(self)
        try:
            self._record_metrics(loss_dict, data_time)
        except FloatingPointError as error:
            if guard is None:
                raise
            guard.skip(self, batches, error)
            return
        self.optimizer_step()

    def fetch_data(self) -> Any:
        """The next batch.

        Raises:
            WorkerKilledError: the system killed a data loading process.
        """
        try:
            return next(self._data_loader_iter)
        except StopIteration:
            raise RuntimeError(
                f"The data loader ended at iteration {self.iter}; a trainer needs a loader "
                "without an end, such as one with a TrainingSampler."
            ) from None
        except RuntimeError as error:
            if "killed by signal" not in str(error) and "exited unexpectedly" not in str(error):
                raise
            raise WorkerKilledError(
                f"The system killed a data loading process at iteration {self.iter}, most often "
                "because memory is short; use fewer of them (DATALOADER.NUM_WORKERS) and go on "
                "with --resume."
            ) from error

    def compute_losses(self, data: Any) -> dict[str, Tensor]:
        """Losses of a batch by name; a model that returns one tensor gives ``total_loss``."""
        losses = self.model(data)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a scalar loss."""
        loss.backward()

    def optimizer_step(self) -> None:
        """Change the parameters by their gradients."""
        self.optimizer.step()

    def _record_metrics(self, loss_dict: Mapping[str, Tensor], data_time: float) -> None:
        if not self.async_write_metrics:
            self._write_metrics(loss_dict, data_time)
            return
        if self._metric_writer is None:
            # One thread, so that iterations are recorded in their order; and a group of its
            # own, because collective calls of two threads in one group get mixed up.
            self._metric_writer = ThreadPoolExecutor(max_workers=1)
            if comm.get_world_size() > 1:
                self._metric_group = torch.distributed.new_group(backend="gloo")
        self._raise_pending_error()
        self._pending_metrics = self._metric_writer.submit(
            self._write_metrics, loss_dict, data_time, iter=self.iter
        )

    def _raise_pending_error(self) -> None:
        pending, self._pending_metrics = self._pending_metrics, None
        if pending is not None:
            pending.result()

    def _write_metrics(
        self,
        loss_dict: Mapping[str, Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period != 0:
            return
        norm = self._gradient_norm() if self._active_guard is not None else None
        # The next step may append to the list while another thread writes the metrics.
        checks = [self._checks.pop(0) for _ in range(len(self._checks))]
        if norm is None:
            self.write_metrics(loss_dict, data_time, iteration, prefix, self._metric_group)
            for check in checks:
                check.answer(check.count.item())
        else:
            group = self._metric_group
            record_losses(loss_dict, data_time, iteration, prefix, group, norm, checks)

    @property
    def _active_guard(self) -> StepGuard | None:
        return None if self.async_write_metrics else self.guard

    def _gradient_norm(self) -> Tensor | None:
        """Norm of all gradients together; None if it is no matter of the guard."""
        return gradient_norm(self.model)

    @staticmethod
    def write_metrics(
        loss_dict: Mapping[str, Tensor],
        data_time: float,
        cur_iter: int,
        prefix: str = "",
        group: Any = None,
    ) -> None:
        """Put the losses, averaged over all processes, into the current `EventStorage`.

        Args:
            loss_dict: scalars by name.
            data_time: seconds that this process waited for its batch.
            cur_iter: iteration to put them at.
            prefix: of the name ``total_loss``.
            group: processes to average over, None for all.

        Raises:
            FloatingPointError: the sum of the losses is not finite, on every process.
        """
        record_losses(loss_dict, data_time, cur_iter, prefix, group)

    def finish_metrics(self) -> None:
        """Wait until the losses of the last iteration are recorded."""
        if self._metric_writer is not None:
            self._metric_writer.shutdown(wait=True)
            self._metric_writer = None
        self._raise_pending_error()

    def after_train(self) -> None:
        """Wait for the last losses to be recorded, then run every hook's `after_train`."""
        try:
            self.finish_metrics()
        finally:
            super().after_train()

    def state_dict(self) -> dict[str, Any]:
        """The iteration, hooks and the optimizer; the position of a loader that has one."""
        state = {**super().state_dict(), "optimizer": self.optimizer.state_dict()}
        if hasattr(self.data_loader, "state_dict"):
            state["data_loader"] = data_position(self)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if "data_loader" in state_dict and hasattr(self.data_loader, "load_state_dict"):
            self.data_loader.load_state_dict(state_dict["data_loader"])
            self._iterator = None


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` in mixed precision: float16 on a GPU, bfloat16 there or on a CPU."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: Any = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """
        Args:
            grad_scaler: a ``torch.amp.GradScaler``; None makes one for float16 and none for
                bfloat16, whose range is that of float32.
            precision: dtype of convolutions and matrix products.
            log_grad_scaler: record the scale as ``[metric]grad_scaler``.

        Raises:
            ValueError: the model is spread over several GPUs of this process, or the precision
                is float16 without a GPU.
        """
        if isinstance(model, DataParallel) or (
            isinstance(model, DistributedDataParallel) and len(model.device_ids or ()) > 1
        ):
            raise ValueError("Mixed precision needs one process per GPU; start it with launch().")
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
        )
        self.device_type = next(model.parameters()).device.type
        if precision == torch.float16 and self.device_type == "cpu":
            raise ValueError("float16 training needs a GPU; on a CPU use precision=torch.bfloat16.")
        if grad_scaler is None:
            grad_scaler = torch.amp.GradScaler(self.device_type, enabled=precision == torch.float16)
        self.grad_scaler = grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def compute_losses(self, data: Any) -> dict[str, Tensor]:
        """Losses of a batch, computed in `precision`."""
        with torch.autocast(self.device_type, dtype=self.precision):
            return super().compute_losses(data)

    def backward(self, loss: Tensor) -> None:
        """Gradients, multiplied by the scaler's factor so that small ones do not vanish."""
        super().backward(self.grad_scaler.scale(loss))

    def _gradient_norm(self) -> Tensor | None:
        # Overflows of scaled gradients are usual; the scaler skips those steps itself.
        return None if self.grad_scaler.is_enabled() else super()._gradient_norm()

    def optimizer_step(self) -> None:
        """Step with unscaled gradients, or none if any of them overflowed; adapt the scale."""
        if self.log_grad_scaler:
            scale = self.grad_scaler.get_scale()
            get_event_storage().put_scalar("[metric]grad_scaler", scale, cur_iter=self.iter)
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            # A fused optimizer would divide by the scale itself, after gradients were clipped.
            self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The iteration, hooks, the optimizer and the scaler."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; one without mixed precision has no scale."""
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
