"""What `CudaRecorder` asks of PyTorch, told by a stand-in with PyTorch's rules of recording."""

import contextlib
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from detectron2.engine.inference import graphs as graphs_module
from detectron2.engine.inference import optimize_for_inference
from detectron2.engine.inference.graphs import CudaRecorder, Fence, TrunkGraphs
from detectron2.engine.inference.optimize import record_trunk
from host_waits import FAR, FarTensor, host_waits, wait_here

sys.path.insert(0, str(Path(__file__).parents[1] / "modeling"))
from tiny_models import ARCHITECTURES, images

SECOND = torch.device("cuda", 1)


class Stream:
    def __init__(self, cuda, device):
        self.cuda, self.device, self.waits_for = cuda, torch.device(device), []

    def wait_stream(self, stream):
        self.waits_for.append(stream)

    def wait_event(self, event):
        self.waits_for.append(event)

    def record_event(self):
        return "event of", self


class Cuda:
    """`torch.cuda` of two devices: where it records, what is current, and how pools live."""

    def __init__(self):
        self.device_now = torch.device("cuda", 0)
        self.current = {torch.device("cuda", i): Stream(self, f"cuda:{i}") for i in (0, 1)}
        self.users_of_pool, self.captures = {}, []

    def Stream(self, device):
        return Stream(self, device)

    def current_stream(self, device):
        return self.current[torch.device(device)]

    @contextlib.contextmanager
    def device(self, device):
        before, self.device_now = self.device_now, device
        yield
        self.device_now = before

    @contextlib.contextmanager
    def stream(self, stream):
        before = self.current[stream.device]
        self.current[stream.device] = stream
        try:
            yield
        finally:
            self.current[stream.device] = before

    def graph_pool_handle(self):
        self.users_of_pool[len(self.users_of_pool)] = 0
        return len(self.users_of_pool) - 1

    def CUDAGraph(self):
        cuda = self

        class Graph:
            pool = None

            def __del__(self):
                if self.pool is not None:
                    cuda.users_of_pool[self.pool] -= 1

        return Graph()

    @contextlib.contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        # As the allocator does, of a pool that was given up with its last graph.
        assert self.users_of_pool[pool] > 0 or pool not in [c["pool"] for c in self.captures]
        self.users_of_pool[pool] += 1
        self.captures.append({"pool": pool, "stream": stream, "device": self.device_now})
        before = self.current_stream(stream.device)
        self.current[stream.device] = stream
        yield  # where the block raises, PyTorch's cudaStreamEndCapture raises too
        self.current[stream.device] = before
        graph.pool = pool


class Images:
    """Stands for a tensor on the second GPU."""

    device = SECOND


@pytest.fixture
def cuda():
    return Cuda()


def fails_when_recorded(cuda):
    def run(images):
        if cuda.captures:
            raise RuntimeError("operation not permitted when stream is capturing")

    return run


def test_recordings_that_live_share_a_pool_and_one_after_them_gets_its_own(cuda):
    recorder = CudaRecorder(cuda)
    first, second = (recorder(lambda images: "output", Images()) for _ in range(2))
    del first
    third = recorder(lambda images: "output", Images())
    del second, third
    recorder(lambda images: "output", Images())
    assert [capture["pool"] for capture in cuda.captures] == [0, 0, 0, 1]
    assert len({capture["stream"] for capture in cuda.captures}) == 1


def test_the_device_of_the_images_records_though_another_one_is_current(cuda):
    seen = []
    CudaRecorder(cuda)(lambda images: seen.append(cuda.current_stream(SECOND)), Images())
    (capture,) = cuda.captures
    assert capture["device"] == capture["stream"].device == SECOND
    assert seen[-1] is capture["stream"] and seen[0] is not capture["stream"]
    assert cuda.device_now == torch.device("cuda", 0)


def test_the_warm_up_waits_for_the_images_and_is_waited_for(cuda):
    seen, current = [], cuda.current_stream(SECOND)
    CudaRecorder(cuda)(lambda images: seen.append(cuda.current_stream(SECOND)), Images())
    side = seen[0]
    assert side.waits_for == [current] and current.waits_for == [side]


def test_after_a_failure_the_stream_is_the_one_of_before_and_the_pool_a_new_one(cuda):
    before, recorder = cuda.current_stream(SECOND), CudaRecorder(cuda)
    with pytest.raises(RuntimeError, match="capturing"):
        recorder(fails_when_recorded(cuda), Images())
    assert cuda.current_stream(SECOND) is before
    recorder(lambda images: "output", Images())
    failed, capture = cuda.captures
    assert failed["pool"] != capture["pool"] and failed["stream"] is not capture["stream"]


def test_two_models_are_not_recorded_at_once(cuda):
    running, most = [], []

    def run(images):
        if cuda.captures:
            running.append(1)
            time.sleep(0.02)
            most.append(len(running))
            running.pop()

    recorders = [CudaRecorder(cuda) for _ in range(3)]
    cuda.captures.append(None)
    cuda.graph = lambda *args, **kwargs: contextlib.nullcontext()
    for recorder in recorders:
        recorder._warm_up = lambda function, images: None
    threads = [threading.Thread(target=r, args=(run, Images())) for r in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


class Replayed:
    """A recording of nothing, on a device that is not the CPU."""

    output = None

    def replay(self):
        pass


def test_another_stream_waits_until_the_output_of_the_last_call_was_read():
    cuda = Cuda()
    graphs = TrunkGraphs([(32, 32)], lambda function, images: Replayed())
    graphs.fence = Fence(cuda)
    meta = torch.device("meta")
    cuda.current[meta] = first = Stream(cuda, meta)
    images = torch.zeros(1, 3, 20, 30, device=meta)

    def call():
        with graphs.in_use():
            graphs(lambda batch: None, images, (32, 32), 0)

    call(), call()  # as it is, then recorded and replayed
    assert first.waits_for == []
    cuda.current[meta] = second = Stream(cuda, meta)
    call()
    assert second.waits_for == [("event of", first)]


def test_another_thread_waits_while_an_output_is_in_use():
    graphs, order = TrunkGraphs([(32, 32)]), []

    def other():
        with graphs.in_use():
            order.append("other")

    with graphs.in_use():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(timeout=0.05)
        order.append("this")
    thread.join()
    assert order == ["this", "other"]


class Crossings(TorchDispatchMode):
    """Operations between the host and `FAR`, also those that nobody waits for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        far = {isinstance(x, FarTensor) for x in tensors}
        wanted = kwargs.get("device")
        if len(far) == 2 or (far and wanted is not None and far != {wanted == FAR}):
            self.found.append(str(wait_here(str(func))))
        return func(*args, **kwargs)


def test_a_copy_that_nobody_waits_for_is_a_crossing():
    with host_waits(), Crossings() as crossings:
        torch.ones(2).to(FAR, non_blocking=True)
        torch.ones(2, device=FAR) + 1
    assert len(crossings.found) == 1


_IN_A_HURRY = ["deformable v2", "Swin", "RetinaNet"]


# A replay would read the host's memory again, where by then there is something else.
@pytest.mark.parametrize(
    "name",
    [
        *_IN_A_HURRY,
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("GN", "RegNetY", "MViT", "FCOS")),
    ],
)
def test_what_is_recorded_has_nothing_to_do_with_the_host(name, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # FAR has none
    monkeypatch.setattr(graphs_module, "_MOST_WASTE", 10.0)
    recorded = []

    def record(function, batch):
        waits.clear()
        with Crossings() as crossings:
            recording = Replayed()
            recording.output = function(batch)
        recorded.append((list(waits), crossings.found))
        return recording

    architecture = ARCHITECTURES[name]
    with host_waits() as waits, torch.no_grad():
        model = optimize_for_inference(architecture.build(0.05)).to(FAR)
        model.fixed_shapes = True
        record_trunk(model, TrunkGraphs([(64, 96)], record))
        model.graphs.fence = Fence(Cuda())
        model.graphs.fence._cuda.current[FAR] = Stream(None, FAR)
        for _ in range(2):
            model(images(architecture))
    assert recorded == [([], [])]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_recordings_are_made_anew_also_after_one_that_failed():
    graphs, stream = TrunkGraphs([(64, 96)]), torch.cuda.current_stream()
    images = torch.rand(1, 3, 50, 90, device="cuda")

    def called(function, state):
        for _ in range(4):
            with graphs.in_use():
                found = graphs(function, images, (64, 96), state)[..., :50, :90].clone()
        return found

    for state in (1, 2, 3):
        assert torch.equal(called(lambda batch: batch * 2, state), images * 2)
        assert graphs._recorded and not graphs._failed
        # It waits for the GPU, which no recording can.
        called(lambda batch: batch * float(batch.sum()), -state)
        assert graphs._failed and not graphs._recorded
        assert torch.cuda.current_stream() == stream
