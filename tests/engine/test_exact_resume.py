"""Trainings that are killed and resumed: the losses are those of one that never stopped."""

import multiprocessing
import multiprocessing.forkserver
import os
import random
import shutil
import signal
import sys
import time

import pytest
import resume_program

from detectron2.engine._interruption import EXIT_CODE, Interruption


@pytest.fixture(scope="module")
def context():
    # Each training is a fork of a server that has imported everything already.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resume_program"])
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    multiprocessing.forkserver.ensure_running()
    os.environ["PYTHONPATH"] = before
    process = context.Process(target=resume_program.nothing)
    process.start()
    process.join()
    return context


def start_process(context, folder, images, options):
    folder.mkdir(exist_ok=True)
    arguments = (str(folder), images, options)
    process = context.Process(target=resume_program.train, args=arguments)
    process.start()
    return process


@pytest.fixture
def start(context, tmp_path):
    def start_here(**options):
        return start_process(context, tmp_path / "run", tmp_path / "images", options)

    return start_here


@pytest.fixture(scope="module")
def whole(context, tmp_path_factory):
    """Losses, and seconds, of a training without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    begin = time.perf_counter()
    process = start_process(context, folder, folder / "images", {})
    process.join()
    assert process.exitcode == 0
    return resume_program.losses(folder), time.perf_counter() - begin


def wait_for(path, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)


def check_whole(folder, expected):
    assert resume_program.losses(folder) == expected
    rest = {"last_checkpoint", "metrics.json", "stdout.txt", "model_final.pth"}
    assert set(os.listdir(folder)) - {"waiting"} == rest | {
        "model_0000020.pth",
        "model_0000023.pth",
    }
    starts = (folder / "stdout.txt").read_text().split()[1::2]
    assert [int(number) for number in starts] == sorted(map(int, starts))


def kill_and_resume(start, folder, whole, kills, seed):
    """Kill trainings in one folder, and begin anew in an empty one when one is complete."""
    expected, seconds = whole
    choose = random.Random(seed)
    done = 0
    while done < kills:
        in_write = choose.choice([0, 0, choose.randrange(1, 9)])
        process = start(die_in_write=in_write, workers=choose.choice([0, 2]))
        process.join(timeout=choose.uniform(0.1, seconds))
        process.kill()
        process.join()
        if process.exitcode == 0:
            check_whole(folder, expected)
            shutil.rmtree(folder)
            continue
        assert process.exitcode == -signal.SIGKILL, done
        done += 1
    process = start()
    process.join()
    assert process.exitcode == 0
    check_whole(folder, expected)


def test_a_killed_training_goes_on_exactly(start, tmp_path, whole):
    assert [at for at, _ in whole[0]] == list(range(resume_program.ITERATIONS))
    # The fourth file: of the second checkpoint, last_checkpoint is still the first.
    process = start(die_in_write=3)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000002.pth"
    kill_and_resume(start, tmp_path / "run", whole, kills=1, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_training_goes_on_exactly_however_often_it_is_killed(start, tmp_path, whole, seed):
    kill_and_resume(start, tmp_path / "run", whole, kills=10, seed=seed)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_convention_a_signal_saves_and_exits_with_85(start, tmp_path, whole, number):
    process = start(wait_for_signal=10)
    wait_for(tmp_path / "run" / "waiting", process)
    # A terminal, timeout and SLURM signal every process.
    for loader in set((tmp_path / "run.loaders").read_text().split()):
        os.kill(int(loader), number)
    time.sleep(0.2)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == EXIT_CODE == 85
    done = resume_program.losses(tmp_path / "run")
    assert done == whole[0][:11]
    process = start()
    process.join()
    assert (tmp_path / "run" / "stdout.txt").read_text().split()[-1] == str(len(done))
    assert resume_program.losses(tmp_path / "run") == whole[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_loader_processes_of_a_killed_training_end_too(start, tmp_path, method):
    process = start(wait_for_signal=10, start_method=method)
    wait_for(tmp_path / "run" / "waiting", process)
    loaders = set((tmp_path / "run.loaders").read_text().split())
    assert len(loaders) == 2
    process.kill()
    process.join()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(is_running(loader) for loader in loaders):
        time.sleep(0.1)
    assert not any(is_running(loader) for loader in loaders)


def is_running(process_id):
    try:
        with open(f"/proc/{process_id}/stat") as stream:
            return stream.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_signals_within_a_second_are_one_request():
    interruption = Interruption()
    with interruption.watched():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signal_name == "SIGUSR1"
        interruption._first -= 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
