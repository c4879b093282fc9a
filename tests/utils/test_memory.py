import pytest
import torch

from detectron2.utils.memory import _ignore_torch_cuda_oom, retry_if_cuda_oom


class Flaky:
    """Runs out of memory a few times, then returns its arguments."""

    def __init__(self, failures, error):
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return args, kwargs


class FakeGpuTensor:
    device = torch.device("cuda")

    def to(self, device):
        return f"copy on {device}"


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("no memory"),
    RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["type", "text"])
@pytest.mark.parametrize(("failures", "argument"), [(0, None), (1, None), (2, "copy on cpu")])
def test_the_cpu_is_used_only_when_a_retry_fails(error, failures, argument):
    flaky = Flaky(failures, error)
    tensor = FakeGpuTensor()
    args, kwargs = retry_if_cuda_oom(flaky)(tensor, 3, key=tensor)
    expected = tensor if argument is None else argument
    assert args == (expected, 3)
    assert kwargs == {"key": expected}
    assert flaky.calls == failures + 1


def test_an_error_on_the_cpu_is_raised():
    with pytest.raises(torch.cuda.OutOfMemoryError):
        retry_if_cuda_oom(Flaky(3, OUT_OF_MEMORY[0]))()


def test_other_errors_are_raised_at_once():
    flaky = Flaky(1, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        retry_if_cuda_oom(flaky)()
    assert flaky.calls == 1


def test_only_running_out_of_memory_is_ignored():
    with _ignore_torch_cuda_oom():
        raise OUT_OF_MEMORY[1]
    with pytest.raises(ValueError), _ignore_torch_cuda_oom():
        raise ValueError


def test_the_wrapper_keeps_name_and_documentation():
    @retry_if_cuda_oom
    def paste(x):
        """Paste it."""
        return x

    assert paste.__name__ == "paste"
    assert paste.__doc__ == "Paste it."
