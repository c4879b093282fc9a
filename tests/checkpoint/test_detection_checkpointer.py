"""Loading every kind of file, reports, saving, resuming."""

import os
import pickle

import numpy as np
import pytest
import torch
from iopath.common.file_io import PathHandler, PathManager
from torch import nn

from detectron2.checkpoint import (
    Checkpointer,
    CorruptCheckpointError,
    DetectionCheckpointer,
    PeriodicCheckpointer,
    UnsafeCheckpointError,
)
from detectron2.checkpoint._report import group_subtrees
from detectron2.layers import FrozenBatchNorm2d


class Backbone(nn.Module):
    """Has the names of a ResNet's stem below ``backbone``."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict(
            {"stem": nn.ModuleDict({"conv1": nn.Conv2d(3, 4, 3, bias=False)})}
        )
        self.backbone["stem"]["conv1"].add_module("norm", FrozenBatchNorm2d(4))
        self.head = nn.Linear(4, 2)

    @property
    def conv(self):
        return self.backbone["stem"]["conv1"]


def dump(path, content):
    path.write_bytes(pickle.dumps(content))
    return str(path)


def save(path, content):
    torch.save(content, path)
    return str(path)


@pytest.fixture
def kernel():
    return np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)


def is_kernel(tensor, kernel):
    return torch.equal(tensor, torch.from_numpy(kernel))


# --- formats --------------------------------------------------------------------------------


def test_model_zoo_file(tmp_path, kernel):
    path = dump(
        tmp_path / "m.pkl",
        {"model": {"backbone.stem.conv1.weight": kernel}, "__author__": "Detectron2 Model Zoo"},
    )
    model = Backbone()
    extra = DetectionCheckpointer(model).load(path)
    assert is_kernel(model.conv.weight, kernel)
    assert extra["__author__"] == "Detectron2 Model Zoo" and "model" not in extra


def test_file_with_matching_heuristics(tmp_path, kernel):
    path = dump(
        tmp_path / "m.pkl",
        {"model": {"stem.conv1.weight": kernel}, "__author__": "x", "matching_heuristics": True},
    )
    model = Backbone()
    DetectionCheckpointer(model).load(path)
    assert is_kernel(model.conv.weight, kernel)


@pytest.mark.parametrize("wrap", [lambda blobs: {"blobs": blobs}, lambda blobs: blobs])
def test_caffe2_file(tmp_path, kernel, wrap):
    blobs = {
        "conv1_w": kernel,
        "conv1_w_momentum": kernel,
        "res_conv1_bn_s": np.full(4, 7, np.float32),
        "lr": 0.1,
    }
    model = Backbone()
    DetectionCheckpointer(model).load(dump(tmp_path / "m.pkl", wrap(blobs)))
    assert is_kernel(model.conv.weight, kernel)
    assert model.conv.norm.weight.tolist() == [7] * 4


def test_pycls_file(tmp_path, kernel):
    state = {
        "stem.conv1.weight": torch.from_numpy(kernel),
        "bn.num_batches_tracked": torch.tensor(1),
    }
    model = Backbone()
    DetectionCheckpointer(model).load(save(tmp_path / "m.pyth", {"model_state": state}))
    assert is_kernel(model.conv.weight, kernel)


def test_torchvision_file(tmp_path, kernel):
    state = {
        "conv1.weight": torch.from_numpy(kernel),
        "bn1.weight": torch.full((4,), 3.0),
        "layer1.0.conv1.weight": torch.ones(1),
    }
    model = Backbone()
    DetectionCheckpointer(model).load(save(tmp_path / "resnet.pth", state))
    assert is_kernel(model.conv.weight, kernel)
    assert model.conv.norm.weight.tolist() == [3] * 4


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_torch_file_with_weights_at_several_places(tmp_path, wrap):
    model = Backbone()
    path = save(tmp_path / "m.pth", wrap({"module.head.bias": torch.full((2,), 5.0)}))
    DetectionCheckpointer(model).load(path)
    assert model.head.bias.tolist() == [5, 5]


def test_option_behind_the_path_matches_by_suffix(tmp_path, kernel):
    path = save(tmp_path / "m.pth", {"stem.conv1.weight": torch.from_numpy(kernel)})
    model = Backbone()
    checkpointer = DetectionCheckpointer(model)
    checkpointer.load(path)
    assert not is_kernel(model.conv.weight, kernel)
    checkpointer.load(path + "?matching_heuristics=True")
    assert is_kernel(model.conv.weight, kernel)


def test_safetensors_file_written_and_read(tmp_path):
    model, copy = Backbone(), Backbone()
    DetectionCheckpointer(model, str(tmp_path)).save("weights.safetensors", iteration=3)
    assert os.listdir(tmp_path) == ["weights.safetensors"]  # nothing to resume from
    extra = DetectionCheckpointer(copy).load(str(tmp_path / "weights.safetensors"))
    assert extra == {"iteration": 3}
    for ours, theirs in zip(copy.state_dict().values(), model.state_dict().values()):
        assert torch.equal(ours, theirs)


def test_empty_path_loads_nothing():
    assert DetectionCheckpointer(Backbone()).load("") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [([1], "holds a list"), (nn.Linear(1, 1), "Linear")],
)
def test_file_without_weights_is_explained(tmp_path, content, message):
    with pytest.raises((ValueError, UnsafeCheckpointError), match=message):
        DetectionCheckpointer(Backbone()).load(save(tmp_path / "m.pth", content))


def test_missing_file_is_one_sentence_with_the_way_out(tmp_path):
    with pytest.raises(AssertionError, match="nofile.pth' not found.*random weights"):
        DetectionCheckpointer(Backbone()).load(str(tmp_path / "nofile.pth"))


@pytest.mark.parametrize("ending", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("size", [0, 100])
def test_cut_off_file_is_named(tmp_path, ending, size):
    model = Backbone()
    if ending == ".safetensors":
        DetectionCheckpointer(model, str(tmp_path)).save("m.safetensors")
        path = tmp_path / "m.safetensors"
    elif ending == ".pkl":
        dump(path := tmp_path / "m.pkl", {"model": {"w": np.ones(99)}, "__author__": ""})
    else:
        save(path := tmp_path / "m.pth", model.state_dict())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptCheckpointError, match="m.*(empty|cut off)"):
        DetectionCheckpointer(model).load(str(path))


def test_own_store_can_be_plugged_in(tmp_path):
    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["mine://"]

        def _get_local_path(self, path, force=False, **kwargs):
            return str(tmp_path / path[len("mine://") :])

    save(tmp_path / "m.pth", {"head.bias": torch.full((2,), 5.0)})
    model = Backbone()
    checkpointer = DetectionCheckpointer(model)
    checkpointer.path_manager = PathManager()
    checkpointer.path_manager.register_handler(Handler())
    checkpointer.load("mine://m.pth")
    assert model.head.bias.tolist() == [5, 5]


def test_readers_can_be_overridden(tmp_path):
    class Mine(DetectionCheckpointer):
        def _torch_load(self, f):
            return {"model": {**super()._torch_load(f)["model"], "head.bias": torch.ones(2)}}

        def _load_file(self, filename):
            return {**super()._load_file(filename), "note": "mine"}

        def _load_model(self, checkpoint):
            checkpoint["model"]["head.weight"] = torch.zeros(2, 4)
            return super()._load_model(checkpoint)

    model = Backbone()
    assert Mine(model).load(save(tmp_path / "m.pth", {"model": {}}))["note"] == "mine"
    assert model.head.bias.tolist() == [1, 1] and not model.head.weight.any()


# --- the report -----------------------------------------------------------------------------


def test_other_number_of_classes_is_one_line_per_tensor(tmp_path, caplog):
    model = nn.ModuleDict({"cls_score": nn.Linear(4, 3)})
    kept = model["cls_score"].weight.clone()
    state = {"cls_score.weight": torch.ones(81, 4), "cls_score.bias": torch.ones(81)}
    DetectionCheckpointer(model).load(save(tmp_path / "m.pth", {"model": state}))
    assert torch.equal(model["cls_score"].weight, kept)
    lines = [line.split() for line in caplog.text.splitlines()]
    assert "Loaded 0 of 2 tensors" in caplog.text
    assert any(line[:3] == ["cls_score.weight", "81x4", "3x4"] for line in lines)
    assert any(line[:3] == ["cls_score.bias", "81", "3"] for line in lines)
    assert "another number of classes" in caplog.text


def test_missing_and_left_over_tensors_are_told_apart(tmp_path, caplog):
    state = {**Backbone().state_dict(), "extra.a": torch.ones(1), "extra.b": torch.ones(1)}
    del state["head.bias"]
    DetectionCheckpointer(Backbone()).load(save(tmp_path / "m.pth", {"model": state}))
    assert "head.bias" in caplog.text and "not in the checkpoint" in caplog.text
    assert "extra.{a, b}" in caplog.text and "not in the model" in caplog.text


def test_complete_load_is_one_calm_line(tmp_path, caplog):
    caplog.set_level("INFO", logger="detectron2")
    model = Backbone()
    DetectionCheckpointer(model).load(save(tmp_path / "m.pth", {"model": model.state_dict()}))
    assert "Loaded 7 of 7 tensors of the model." in caplog.text
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_shape_found_by_suffix_is_reported_as_shape(tmp_path, caplog):
    content = {
        "model": {"stem.conv1.weight": np.ones((9, 3, 3, 3), np.float32)},
        "__author__": "x",
        "matching_heuristics": True,
    }
    DetectionCheckpointer(Backbone()).load(dump(tmp_path / "m.pkl", content))
    assert "9x3x3x3" in caplog.text and "other shape" in caplog.text


def test_known_differences_of_old_files_are_no_problem(tmp_path, caplog):
    model = nn.Linear(1, 1)
    model.register_buffer("pixel_mean", torch.zeros(3))
    state = {
        **nn.Linear(1, 1).state_dict(),
        "rpn.anchor_generator.cell_anchors.0": torch.ones(1),
        "norm.num_batches_tracked": torch.tensor(7),  # of a model whose norms were trained
    }
    DetectionCheckpointer(model).load(save(tmp_path / "m.pth", {"model": state}))
    assert not caplog.records


def wide_state(prefix, blocks):
    """Names of a network with many layers."""
    return {
        f"{prefix}.{block}.conv{i}.{leaf}": torch.ones(2)
        for block in range(blocks)
        for i in (1, 2, 3)
        for leaf in ("weight", "bias")
    }


def test_checkpoint_of_another_architecture_is_told_in_groups(tmp_path, caplog):
    state = {
        **wide_state("net.blocks", 40),
        **wide_state("other.head", 20),
        "head.bias": torch.ones(9),
    }
    checkpointer = DetectionCheckpointer(Backbone())
    checkpointer.load(save(tmp_path / "m.pth", {"model": state}))
    report = checkpointer.report
    assert report.is_foreign and (report.loaded, report.total) == (0, 7)
    assert report.empty_parts == ["backbone", "head"]
    lines = caplog.text.splitlines()
    assert len(lines) < 25
    assert "another architecture" in lines[0]
    (net,) = [line for line in lines if "net.blocks" in line]
    assert "net.blocks.* (240 tensors)" in net and "not in the model" in net
    (head,) = [line.split() for line in lines if line.startswith("head.bias")]
    assert head[1:5] == ["9,", "...", "2,", "..."]  # shapes on both sides


def test_a_backbone_alone_is_no_other_architecture(tmp_path, caplog):
    state = {k: v for k, v in Backbone().state_dict().items() if k.startswith("backbone")}
    checkpointer = DetectionCheckpointer(Backbone())
    assert checkpointer.report is None
    checkpointer.load(save(tmp_path / "m.pth", {"model": state}))
    assert not checkpointer.report.is_foreign
    assert checkpointer.report.empty_parts == ["head"]
    assert "Nothing of head is in the checkpoint." in caplog.text


@pytest.mark.parametrize(
    ("most", "groups"),
    [
        (1, [["a.0.b", "a.0.w", "a.1.w"], ["z"]]),
        (2, [["a.0.b", "a.0.w", "a.1.w"], ["z"]]),
        (9, [["a.0.b", "a.0.w"], ["a.1.w"], ["z"]]),
    ],
)
def test_names_are_grouped_as_finely_as_the_number_of_lines_allows(most, groups):
    assert group_subtrees(["a.0.b", "a.0.w", "a.1.w", "z"], most) == groups


# --- saving and resuming --------------------------------------------------------------------


@pytest.fixture
def training(tmp_path):
    model = Backbone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer)


def test_class_is_fvcores_and_the_others_are_exported():
    assert issubclass(DetectionCheckpointer, Checkpointer)
    assert PeriodicCheckpointer.__module__ == "fvcore.common.checkpoint"


def test_saved_state_is_complete_and_resumed(training, tmp_path):
    training.save("model_0000003", iteration=3)
    content = torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    assert sorted(content) == ["iteration", "model", "optimizer"]
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000003.pth"]
    training.model.head.bias.data.fill_(9)
    assert training.resume_or_load("", resume=True)["iteration"] == 3
    assert not (training.model.head.bias == 9).any()


def test_without_resume_the_checkpointables_stay(training):
    training.save("model_0000003", iteration=3)
    training.checkpointables["optimizer"].param_groups[0]["lr"] = 5.0
    training.resume_or_load(training.get_checkpoint_file(), resume=False)
    assert training.checkpointables["optimizer"].param_groups[0]["lr"] == 5.0


def test_failed_save_leaves_the_old_file(training, tmp_path):
    training.save("model_final", iteration=1)
    before = (tmp_path / "model_final.pth").read_bytes()

    class Unsaveable:
        def __reduce__(self):
            raise RuntimeError("cannot be saved")

    with pytest.raises(RuntimeError, match="cannot be saved"):
        training.save("model_final", iteration=Unsaveable())
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_final.pth"]


def test_name_with_a_folder_is_refused(training):
    with pytest.raises(ValueError, match="must be a file name"):
        training.save("sub/model")


def test_nothing_is_written_when_saving_is_off(tmp_path):
    DetectionCheckpointer(Backbone(), str(tmp_path), save_to_disk=False).save("m")
    assert not os.listdir(tmp_path)


def damage(path):
    path.write_bytes(path.read_bytes()[:-100])


def set_age(path, seconds):
    stat = path.stat()
    os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))


def test_convention_resume_falls_back_past_a_damaged_file_and_says_so(training, tmp_path, caplog):
    for age, iteration in ((200, 1), (100, 2), (0, 3)):
        training.save(f"model_000000{iteration}", iteration=iteration)
        set_age(tmp_path / f"model_000000{iteration}.pth", age)
    training.save("best", iteration=9)
    training.tag_last_checkpoint("model_0000003.pth")
    damage(tmp_path / "model_0000003.pth")
    assert training.resume_or_load("", resume=True)["iteration"] == 2
    assert "model_0000003.pth" in caplog.text and "cut off" in caplog.text
    assert "Resumed from" in caplog.text and "model_0000002.pth" in caplog.text


def test_resume_survives_a_deleted_last_file(training, tmp_path, caplog):
    training.save("model_0000001", iteration=1)
    training.save("model_0000002", iteration=2)
    (tmp_path / "model_0000002.pth").unlink()
    assert training.resume_or_load("", resume=True)["iteration"] == 1
    assert "is gone" in caplog.text


def test_resume_with_only_damaged_files_does_not_start_from_scratch(training, tmp_path):
    training.save("model_0000001", iteration=1)
    damage(tmp_path / "model_0000001.pth")
    with pytest.raises(CorruptCheckpointError, match="No checkpoint.*model_0000001"):
        training.resume_or_load("", resume=True)


def test_error_that_is_no_damage_is_not_swallowed(training):
    training.save("model_0000001", iteration=1)
    training.save("model_0000002", iteration=2)

    def fail(state):
        raise KeyError("state")

    training.checkpointables["optimizer"].load_state_dict = fail
    with pytest.raises(KeyError, match="state"):
        training.resume_or_load("", resume=True)


def test_periodic_checkpointer_keeps_the_newest(training, tmp_path):
    periodic = PeriodicCheckpointer(training, 2, max_iter=7, max_to_keep=2)
    for iteration in range(7):
        periodic.step(iteration)
    assert sorted(os.listdir(tmp_path)) == [
        "last_checkpoint",
        "model_0000003.pth",
        "model_0000005.pth",
        "model_final.pth",
    ]
    assert training.get_checkpoint_file().endswith("model_final.pth")
