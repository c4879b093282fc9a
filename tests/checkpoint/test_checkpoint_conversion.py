"""Rewriting checkpoints as .safetensors, .pth and .pkl."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from detectron2.checkpoint import DetectionCheckpointer, UnsafeCheckpointError
from detectron2.checkpoint._files import load_torch_file, read_checkpoint
from detectron2.checkpoint.convert import convert_checkpoint

ENDINGS = (".safetensors", ".pth", ".pkl")


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "conv.half": torch.randn(5, generator=generator).half(),
        "steps": torch.tensor(7),
        "empty": torch.zeros(0, 4),
    }


def write_pth(path):
    torch.save(
        {"model": weights(), "iteration": 89999, "optimizer": {"state": torch.ones(1)}}, path
    )
    return path


@pytest.mark.parametrize(("first", "second"), list(itertools.product(ENDINGS, ENDINGS)))
def test_every_tensor_survives_every_pair_of_formats(tmp_path, first, second):
    source = write_pth(tmp_path / "source.pth")
    middle, last = tmp_path / f"middle{first}", tmp_path / f"last{second}"
    done = convert_checkpoint(source, middle)
    assert (done.tensors, done.left_out) == (4, ["optimizer"]) and done.megabytes > 0
    assert convert_checkpoint(middle, last).left_out == []
    content = read_checkpoint(str(last), load_torch_file)
    assert content["iteration"] == 89999
    for name, tensor in weights().items():
        found = torch.as_tensor(content["model"][name])
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), name


@pytest.mark.parametrize("ending", ENDINGS)
def test_caffe2_names_are_still_translated_when_the_new_file_is_loaded(tmp_path, ending):
    kernel = np.random.default_rng(0).standard_normal((4, 3, 7, 7)).astype(np.float32)
    source = tmp_path / "R-50.pkl"
    source.write_bytes(pickle.dumps({"blobs": {"conv1_w": kernel, "conv1_w_momentum": kernel}}))
    target = tmp_path / f"new{ending}"
    assert convert_checkpoint(source, target).tensors == 1
    stem = nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 7, bias=False)})
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"stem": stem})})
    DetectionCheckpointer(model).load(str(target))
    assert torch.equal(stem["conv1"].weight, torch.from_numpy(kernel))


def test_type_without_numpy_counterpart_is_refused_and_nothing_is_written(tmp_path):
    source, target = tmp_path / "a.pth", tmp_path / "b.pkl"
    torch.save({"w": torch.zeros(2, dtype=torch.bfloat16)}, source)
    with pytest.raises(ValueError, match="'w' is torch.bfloat16.*write .safetensors or .pth"):
        convert_checkpoint(source, target)
    assert not target.exists()
    assert convert_checkpoint(source, tmp_path / "b.safetensors").tensors == 1


@pytest.mark.parametrize(
    ("source", "target", "error", "message"),
    [
        ("a.pth", "b.onnx", ValueError, "must end in .safetensors, .pth, .pkl"),
        ("a.pth", "a.pth", ValueError, "is the checkpoint itself"),
        ("nothing.pth", "b.pkl", FileNotFoundError, "no checkpoint .*nothing.pth"),
        ("text.pth", "b.pkl", ValueError, "'name' in checkpoint .* is a str, no tensor"),
        ("evil.pkl", "b.pkl", UnsafeCheckpointError, "could run code"),
    ],
)
def test_mistakes_are_named(tmp_path, source, target, error, message):
    write_pth(tmp_path / "a.pth")
    torch.save({"model": {"name": "text"}}, tmp_path / "text.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {"w": print}, "__author__": ""}))
    with pytest.raises(error, match=message):
        convert_checkpoint(tmp_path / source, tmp_path / target)
    assert not (tmp_path / "b.pkl").exists()
