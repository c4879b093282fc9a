import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from ops_contract import random_boxes, with_images
from ops_in_workers import results

from detectron2.ops import nms, roi_align
from detectron2.ops.threads import parallel_for


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("total", [0, 1, 7, 1000])
@pytest.mark.parametrize("block", [1, 8, 5000])
def test_every_item_is_taken_once(total, block):
    seen = []
    parallel_for(lambda start, stop: seen.extend(range(start, stop)), total, block)
    assert sorted(seen) == list(range(total))


def test_several_threads_take_part():
    names = set()

    def work(start, stop):
        time.sleep(0.02)
        names.add(threading.current_thread().name)

    parallel_for(work, 12, 1)
    assert len(names) == 3


def test_one_thread_stays_in_the_caller():
    torch.set_num_threads(1)
    names = []
    parallel_for(lambda *block: names.append((threading.current_thread(), block)), 100, 10)
    assert names == [(threading.current_thread(), (0, 100))]


@pytest.mark.parametrize("bad", [0, 60, 99])
def test_an_error_of_a_block_reaches_the_caller(bad):
    def work(start, stop):
        time.sleep(0.001)
        if start <= bad < stop:
            raise ValueError(f"block {start}")

    with pytest.raises(ValueError, match="block"):
        parallel_for(work, 100, 10)


def test_calls_within_calls_do_not_wait_for_one_another():
    def inner(start, stop):
        time.sleep(0.001)

    def outer(start, stop):
        parallel_for(inner, 20, 1)

    done = threading.Event()

    def both():
        parallel_for(outer, 20, 1)
        done.set()

    threading.Thread(target=both, daemon=True).start()
    assert done.wait(30)


def run_alone(arguments, **environment):
    """A Python program in a process of its own that finds the modules of this folder."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )


def sample_inputs():
    features = torch.randn(2, 32, 40, 40, generator=torch.Generator().manual_seed(3))
    rois = with_images(random_boxes(200, 160), 2)
    return features, rois


def pooled_sum() -> float:
    features, rois = sample_inputs()
    pooled = roi_align(features, rois, 7, 0.25, 2, True)
    kept = nms(rois[:, 1:], rois[:, 2], 0.5)
    return round(pooled.double().abs().sum().item(), 6) + len(kept)


def test_python_threads_may_use_the_kernels_at_the_same_time():
    expected = pooled_sum()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: pooled_sum(), range(40))) == [expected] * 40


def test_eight_python_threads_may_use_all_kernels_at_the_same_time():
    expected = [results(index) for index in range(4)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda call: results(call % 4), range(8 * 10)))
    assert found == expected * 20


@pytest.mark.slow
def test_eight_python_threads_may_make_hundreds_of_calls():
    expected = results(0)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(results, [0] * (8 * 200)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers_may_use_all_kernels(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {method}")
    run = run_alone([str(Path(__file__).with_name("ops_in_workers.py")), method])
    assert run.stdout == "same results\n", run.stderr


def test_kernels_run_after_a_plain_fork():
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this platform cannot fork")
    # In a process of its own: a fork of this one would copy whatever other tests started.
    run = run_alone(["-c", FORK])
    assert run.returncode == 0, run.stderr


FORK = """
import os, torch
torch.set_num_threads(3)
from test_threads import pooled_sum
expected = pooled_sum()  # the pool of the parent exists now
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # PyTorch's own threads do not survive a fork
    from detectron2.ops import threads
    assert threads._pool is None
    torch.get_num_threads = lambda: 3
    os._exit(0 if pooled_sum() == expected else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
"""


def compiled_anew(code, **environment):
    """Kernels that a new process compiles, and that it finds in the cache."""
    run = run_alone(["-c", code + COUNT], **environment)
    assert run.returncode == 0, run.stderr
    return tuple(map(int, run.stdout.split()))


COUNT = """
import sys
from numba.core.dispatcher import Dispatcher
modules = [module for name, module in sys.modules.items() if name.startswith("detectron2.ops")]
kernels = {id(one): one for module in modules for one in vars(module).values()
           if isinstance(one, Dispatcher)}.values()
print(sum(sum(one.stats.cache_misses.values()) for one in kernels),
      sum(sum(one.stats.cache_hits.values()) for one in kernels))
"""


def test_convention_the_second_process_compiles_nothing(tmp_path):
    code = "import torch\nfrom detectron2.ops.box_iou import cpu\ncpu.warm_up()\n"
    misses, hits = compiled_anew(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert misses > 0 and hits == 0
    assert compiled_anew(code, NUMBA_CACHE_DIR=str(tmp_path))[0] == 0


WORK = """
import sys, torch
from numba.core.dispatcher import Dispatcher
from detectron2.ops import dispatch

def signatures():
    found = [one for name, module in sys.modules.items() if name.startswith("detectron2.ops")
             for one in vars(module).values() if isinstance(one, Dispatcher)]
    return sum(len(one.signatures) for one in {id(one): one for one in found}.values())

dispatch.warm_up()
"""

# Also what ordinary calls need: no signature but those that warm_up() compiles.
ORDINARY_CALLS = """
warm = signatures()
from ops_in_workers import results
results(0)
assert signatures() == warm, f"{signatures() - warm} kernels were compiled for ordinary calls"
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # where the suite's cache is empty, each of 40 kernels takes seconds
def test_convention_the_second_process_compiles_no_kernel_at_all():
    assert sum(compiled_anew(WORK)) > 30
    assert compiled_anew(WORK + ORDINARY_CALLS)[0] == 0
