"""The C++ example is built with CMake and finds what Python finds."""

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from small_models import picture, small_model

from detectron2.export import export

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
PILLOW = int(PIL.__version__.split(".")[0])
# Compiling takes half a minute: `.ci/run` runs this file by its name.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("cmake") is None or shutil.which("c++") is None,
        reason="building the example needs cmake and a C++ compiler",
    ),
]


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build(folder, *options):
    # Without optimisation: the compiler would take longer than the pictures.
    run("cmake", "-S", SOURCE, "-B", folder, "-DCMAKE_BUILD_TYPE=None", *options)
    run("cmake", "--build", folder, "--parallel", "2")
    return folder / "detect"


def onnxruntime_library():
    onnxruntime = pytest.importorskip("onnxruntime", reason="the program runs its library")
    pattern = os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so*")
    libraries = glob.glob(pattern)
    if not libraries:
        pytest.skip("this onnxruntime has no libonnxruntime.so")
    return f"-DONNXRUNTIME_LIBRARY={libraries[0]}"


def compare(program, exported, folder, image):
    """Assert that the program finds what Python finds with the same file."""
    Image.fromarray(image[:, :, ::-1]).save(folder / "photo.ppm")
    result, masks = folder / "result.json", folder / "masks.pgm"
    run(program, exported.path, folder / "photo.ppm", result, masks, 0.05)
    (expected,) = exported.predict([image])
    expected = expected["instances"]
    expected = expected[expected.scores.argsort(descending=True, stable=True)]
    found = json.loads(result.read_text())
    assert (found["height"], found["width"]) == image.shape[:2]
    rows = found["instances"]
    assert len(rows) == len(expected) > 0
    boxes = expected.pred_boxes.tensor.numpy()
    boxes[:, 2:] -= boxes[:, :2]
    assert np.abs(np.array([row["bbox"] for row in rows]) - boxes).max() < 1e-4
    scores = expected.scores.numpy()
    assert np.abs(np.array([row["score"] for row in rows]) - scores).max() < 1e-6
    assert [row["category_id"] for row in rows] == expected.pred_classes.tolist()
    assert rows[0]["category"] == exported.info.classes["thing_classes"][rows[0]["category_id"]]
    labels = np.zeros(image.shape[:2], dtype=np.uint8)
    for index in reversed(range(len(expected))):
        labels[expected.pred_masks[index].numpy()] = index + 1
    with Image.open(masks) as picture_of_masks:
        drawn = np.array(picture_of_masks)
    # A pixel on the border of a mask may fall on either side of one half.
    assert (drawn != labels).mean() < 1e-4


def exported_as(format, suffix, folder):
    return export(
        small_model("Mask R-CNN FPN"),
        format,
        folder / f"model{suffix}",
        shortest_edge=96,
        longest_edge=160,
        classes={"thing_classes": ['a "quoted" name', "b", "c", "d", "e"]},
    )


def check_program(program, exported, folder):
    """Assert that program and Python agree on pictures that are enlarged and reduced."""
    # The last one gets so much lower that Pillow resizes its columns before its rows.
    sizes = [(72, 96), (150, 260), *([(333, 120)] if PILLOW >= 12 else [])]
    for seed, size in enumerate(sizes):
        compare(program, exported, folder, picture(*size, seed))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    options = [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", onnxruntime_library()]
    return build(tmp_path_factory.mktemp("cpp"), *options)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    pytest.importorskip("onnxscript", reason="exporting to ONNX needs it")
    return exported_as("onnx", ".onnx", tmp_path_factory.mktemp("onnx"))


def test_the_cpp_program_finds_what_python_finds_in_onnx_files(program, onnx_file, tmp_path):
    check_program(program, onnx_file, tmp_path)


def test_the_cpp_program_finds_what_python_finds_in_torchscript_files(program, tmp_path):
    check_program(program, exported_as("torchscript", ".ts", tmp_path), tmp_path)


def test_the_cpp_program_says_what_is_wrong(program, onnx_file, tmp_path):
    import onnx

    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "short.ppm").write_bytes(b"P6 # made by hand\n4 4\n255\nabc")
    shutil.copy(onnx_file.path, tmp_path / "model.onnx")
    other = onnx.load(onnx_file.path)
    (entry,) = other.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "postprocess": "in"})
    onnx.save(other, tmp_path / "other.onnx")
    for arguments, message in (
        ([], "usage: detect MODEL"),
        (["model.xml", "a.ppm", "a.json"], "a .xml file, which this program was not built for"),
        (["none.onnx", "a.ppm", "a.json"], "none.onnx"),
        (["other.onnx", "a.ppm", "a.json"], "files of --preprocess in --postprocess out"),
        (["model.onnx", "none.ppm", "a.json"], "'none.ppm' cannot be read"),
        (["model.onnx", "photo.png", "a.json"], "'photo.png' is no PPM picture"),
        (["model.onnx", "short.ppm", "a.json"], "'short.ppm' is incomplete"),
    ):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1 and message in done.stderr
