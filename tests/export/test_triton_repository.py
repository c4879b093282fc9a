"""Model repositories: Triton's own schema reads them, and files take and return what they say."""

import json

import numpy as np
import pytest
import torch
from small_models import picture, small_model

from detectron2.export import load
from detectron2.export.command import ExportOptions, run_export
from detectron2.export.triton_repository import export_triton_model

NUMPY = {"TYPE_FP32": np.float32, "TYPE_INT64": np.int64}


def config_of(folder):
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def request(config, images):
    """Inputs for (H, W, 3) images of one size, by the names and types of the configuration."""
    values = {
        "images": np.stack([each.transpose(2, 0, 1) for each in images]),
        "image_sizes": np.array([each.shape[:2] for each in images]),
    }
    return {
        port.name: values[port.name.partition("__")[0]].astype(kind_of(config, port))
        for port in config.input
    }


def kind_of(config, port):
    types = config.DESCRIPTOR.file.enum_types_by_name["DataType"]
    return NUMPY[types.values_by_number[port.data_type].name]


def check_values(config, ports, values):
    """Assert that arrays have the types and sizes that the configuration names."""
    assert set(values) == {port.name for port in ports}
    for port in ports:
        value = values[port.name]
        assert value.dtype == kind_of(config, port)
        assert len(value.shape) == len(port.dims)
        assert all(want in (-1, got) for want, got in zip(port.dims, value.shape)), port.name


def run_onnx(path, config, inputs):
    import onnxruntime

    names = [port.name for port in config.output]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, inputs)))


def run_torchscript(path, config, inputs):
    """As Triton's PyTorch backend: the number behind a name is the place of an argument."""
    place = {int(name.rpartition("__")[2]): torch.from_numpy(v) for name, v in inputs.items()}
    outputs = torch.jit.load(path)(*(place[k] for k in range(len(place))))
    return {
        port.name: outputs[int(port.name.rpartition("__")[2])].numpy() for port in config.output
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.load. is deprecated")
@pytest.mark.parametrize(
    ("architecture", "file_format", "name", "backend", "run"),
    [
        ("Mask R-CNN FPN", "onnx", "model.onnx", "onnxruntime", run_onnx),
        ("RetinaNet", "torchscript", "model.pt", "pytorch", run_torchscript),
    ],
    ids=["onnx", "torchscript"],
)
@torch.no_grad()
def test_a_repository_holds_what_its_configuration_says(
    architecture, file_format, name, backend, run, tmp_path
):
    folder = tmp_path / "models" / "shapes"
    classes = {"thing_classes": ['a "b" \\ c', "b", "c", "d", "e"]}
    exported = export_triton_model(
        small_model(architecture), folder, file_format=file_format, classes=classes
    )
    config = config_of(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("shapes", backend, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "config.pbtxt"]
    assert [path.name for path in (folder / "1").iterdir()] == [name]
    described = json.loads(config.parameters["detectron2"].string_value)
    assert described["classes"]["thing_classes"] == classes["thing_classes"]
    for sizes in ([(96, 128)], [(64, 96), (64, 96)]):
        images = [picture(*size, seed) for seed, size in enumerate(sizes)]
        inputs = request(config, images)
        check_values(config, config.input, inputs)
        outputs = run(str(folder / "1" / name), config, inputs)
        check_values(config, config.output, outputs)
        by_name = {key.partition("__")[0]: value for key, value in outputs.items()}
        expected = exported.predict(images)
        found = np.bincount(by_name["image_index"], minlength=len(images))
        assert found.tolist() == [len(each["instances"]) for each in expected]
        scores = torch.cat([each["instances"].scores for each in expected])
        np.testing.assert_allclose(by_name["scores"], scores, rtol=1e-5)


def test_the_next_export_is_the_next_version_and_a_failed_one_leaves_nothing(tmp_path):
    model, folder = small_model("Semantic FPN"), tmp_path / "stuff"
    (folder / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match="opset is 3"):
        export_triton_model(model, folder, file_format="torchscript", opset=3)
    assert [path.name for path in folder.iterdir()] == ["1"]
    export_triton_model(model, folder, file_format="torchscript", batch=1, image_size=(64, 96))
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "config.pbtxt"]
    assert list(config_of(folder).input[0].dims) == [1, 3, 64, 96]
    (tmp_path / "model.ts").write_bytes((folder / "2" / "model.pt").read_bytes())
    assert load(tmp_path / "model.ts").info.image_size == [64, 96]


@pytest.mark.slow
def test_the_command_writes_a_repository(tmp_path, capsys):
    config = "Quickstart/mask_rcnn_R_50_narrow_FPN.yaml"
    options = ExportOptions(config, "triton-repo", tmp_path / "shapes", random_weights=True)
    run_export(options)
    assert (tmp_path / "shapes" / "1" / "model.onnx").is_file()
    assert "as triton-repo in" in capsys.readouterr().out


def test_wrong_names_and_formats_of_a_repository_are_refused(tmp_path):
    model = small_model("Semantic FPN")
    with pytest.raises(ValueError, match="holds onnx or torchscript files, not 'pt2'"):
        export_triton_model(model, tmp_path / "stuff", file_format="pt2")
    with pytest.raises(ValueError, match="end in the name of the model"):
        export_triton_model(model, tmp_path / "two words")
