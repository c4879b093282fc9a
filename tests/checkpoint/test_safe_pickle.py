"""Readers that cannot be made to run code."""

import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from fvcore.common.history_buffer import HistoryBuffer

from detectron2.checkpoint import UnsafeCheckpointError, _safe_pickle, allow_in_checkpoints
from detectron2.checkpoint._files import load_torch_file
from detectron2.checkpoint._safe_pickle import load_pickle
from detectron2.config import get_cfg


class MakesFolder:
    """Unpickling it makes a folder, if unpickling runs code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Harmless:
    def __init__(self, value=0):
        self.value = value


def plain_content():
    history = HistoryBuffer()
    history.update(3.0, 1)
    return {
        "array": np.arange(3.0, dtype=np.float32),
        "objects": np.array([1, "x"], dtype=object),
        "scalar": np.float64(2.5),
        "tensor": torch.ones(2),
        "parameter": torch.nn.Parameter(torch.ones(1)),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "ordered": OrderedDict(a=1),
        "set": {1, 2},
        "bytes": b"abc",
        "history": history,
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_in_every_pickle_protocol(protocol):
    content = plain_content()
    read = load_pickle(io.BytesIO(pickle.dumps(content, protocol)), "f.pkl")
    assert {k: type(v) for k, v in read.items()} == {k: type(v) for k, v in content.items()}
    assert np.array_equal(read["array"], content["array"])
    assert torch.equal(read["tensor"], content["tensor"])
    assert read["history"].latest() == 3.0


def test_text_of_python_2_is_read_as_latin_1():
    # What Python 2 writes for {'w\xe4': 1}: a byte string, not text.
    assert load_pickle(io.BytesIO(b"(dp0\nS'w\\xe4'\np1\nI1\ns."), "f.pkl") == {"wä": 1}


def test_training_state_is_read_from_a_torch_file(tmp_path):
    path = str(tmp_path / "f.pth")
    torch.save({"n": np.int64(3), "array": np.ones(2), "h": plain_content()["history"]}, path)
    read = load_torch_file(path)
    assert (read["n"], read["h"].latest()) == (3, 3.0)
    assert np.array_equal(read["array"], np.ones(2))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_config_in_a_checkpoint_comes_back_as_dicts(tmp_path, kind):
    content = {"cfg": get_cfg()}
    if kind == "pickle":
        read = load_pickle(io.BytesIO(pickle.dumps(content)), "f.pkl")
    else:
        torch.save(content, tmp_path / "f.pth")
        read = load_torch_file(str(tmp_path / "f.pth"))
    assert read["cfg"]["MODEL"]["RPN"]["NMS_THRESH"] == 0.7


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_convention_what_training_scripts_save_beside_weights_is_read(tmp_path, kind):
    content = {
        "args": argparse.Namespace(lr=0.1, resume=None),
        "started": datetime.datetime(2024, 5, 6, 7, 8),
        "output": pathlib.Path("runs") / "one",
        "best": collections.defaultdict(list, ap=[0.5]),
        "seen": frozenset({1, 2}),
    }
    if kind == "pickle":
        read = load_pickle(io.BytesIO(pickle.dumps(content)), "f.pkl")
    else:
        torch.save(content, tmp_path / "f.pth")
        read = load_torch_file(str(tmp_path / "f.pth"))
    assert vars(read["args"]) == {"lr": 0.1, "resume": None}
    assert read["output"] == "runs/one"
    assert all(read[key] == content[key] for key in ("started", "best", "seen"))


@pytest.mark.parametrize("kind", ["pickle", "torch", "inside an object array"])
def test_convention_a_malicious_checkpoint_runs_nothing(tmp_path, kind):
    content = {"model": {"w": MakesFolder(tmp_path / "ran")}}
    with pytest.raises(UnsafeCheckpointError, match="evil.*(posix|nt).mkdir"):
        if kind == "torch":
            torch.save(content, tmp_path / "evil.pth")
            load_torch_file(str(tmp_path / "evil.pth"))
        else:
            if kind == "inside an object array":
                content = {"w": np.array([content["model"]["w"]], dtype=object)}
            load_pickle(io.BytesIO(pickle.dumps(content)), "evil.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["os system", "builtins eval", "builtins getattr", "torch load"])
def test_functions_are_out_of_reach(name):
    module, function = name.split()
    text = f"c{module}\n{function}\n.".encode()
    with pytest.raises(UnsafeCheckpointError, match=f"{module}.{function}"):
        load_pickle(io.BytesIO(text), "f.pkl")


def test_storage_inside_a_pickle_is_read_safely_too(tmp_path):
    inner = io.BytesIO()
    torch.save(MakesFolder(tmp_path / "ran"), inner)

    class Bytes:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    with pytest.raises(pickle.UnpicklingError):
        load_pickle(io.BytesIO(pickle.dumps(Bytes())), "f.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_class_can_be_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(_safe_pickle, "_extra_classes", [])
    path = str(tmp_path / "f.pth")
    torch.save({"h": Harmless(4)}, path)
    pickled = pickle.dumps({"h": Harmless(4)})
    with pytest.raises(UnsafeCheckpointError, match="Harmless.*allow_in_checkpoints"):
        load_torch_file(path)
    with pytest.raises(UnsafeCheckpointError, match="Harmless"):
        load_pickle(io.BytesIO(pickled), "f.pkl")
    allow_in_checkpoints(Harmless)
    assert load_torch_file(path)["h"].value == 4
    assert load_pickle(io.BytesIO(pickled), "f.pkl")["h"].value == 4
