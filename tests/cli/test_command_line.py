"""The command as a user runs it: in a process of its own."""

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from detectron2 import model_zoo
from detectron2.cli.main import main
from detectron2.data.errors import UnreadableImageError
from detectron2.engine.visualize_dataset import visualize_dataset
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager

SMALL_MODEL = "Quickstart/mask_rcnn_R_50_narrow_FPN.yaml"
VERBS = (
    "quickstart",
    "predict",
    "train",
    "eval",
    "debug-batch",
    "compare",
    "export",
    "serve",
    "visualize",
    "zoo",
    "doctor",
    "benchmark",
    "dataset",
)


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "detectron2.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
    )


@pytest.fixture
def run_here(monkeypatch, capsys, tmp_path):
    """The command in this process, in `tmp_path`: no second import of torch."""

    def run_main(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["detectron2", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return run_main


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "colour.jpg")
    Image.fromarray(pixels[:, :, 0]).save(folder / "grey.png")
    (folder / "broken.jpg").write_bytes((folder / "colour.jpg").read_bytes()[:300])
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    done = run(verb, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout and f"detectron2 {verb}" in done.stdout


def test_start_of_the_command_does_not_load_torch():
    code = "import sys, detectron2.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_version_is_printed():
    from detectron2 import __version__

    assert run("--version").stdout.split() == ["detectron2", __version__]


def test_predict_writes_pictures_and_results_with_random_weights(photos, tmp_path):
    out = tmp_path / "out"
    done = run("predict", photos, "--config", SMALL_MODEL, "--random-weights", "--output", out,
               "--min-score", 0)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "skipped broken.jpg" in done.stdout
    content = json.loads((out / "predictions.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["colour.jpg", "grey.png"]
    assert [c["id"] for c in content["categories"]] == [1, 2, 3, 4, 5]
    assert {a["category_id"] for a in content["annotations"]} <= {1, 2, 3, 4, 5}
    for name in ("colour.jpg", "grey.png"):
        with Image.open(out / name) as picture:
            assert picture.size == (120, 90)


def test_predict_writes_json_lines(run_here, photos, tmp_path):
    out = tmp_path / "out"
    code, _, err = run_here(
        "predict", photos / "grey.png", "--config", SMALL_MODEL, "--random-weights",
        "--output", out, "--format", "jsonl", "--no-pictures",
    )  # fmt: skip
    assert code == 0, err
    assert os.listdir(out) == ["predictions.jsonl"]
    (line,) = (out / "predictions.jsonl").read_text().splitlines()
    assert json.loads(line)["file_name"] == "grey.png"


def test_predict_says_segmented_where_a_model_has_no_detections(run_here, photos, tmp_path):
    config = tmp_path / "semantic.yaml"
    config.write_text(
        "MODEL: {META_ARCHITECTURE: SemanticSegmentor, DEVICE: cpu, BACKBONE: {NAME: "
        "build_resnet_fpn_backbone}, RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: "
        "[res2, res3, res4, res5]}, FPN: {IN_FEATURES: [res2, res3, res4, res5]}}\n"
        "INPUT: {MIN_SIZE_TEST: 64}\n"
    )
    code, out, err = run_here(
        "predict", photos / "grey.png", "--config", config, "--random-weights",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert "1 images segmented (the file of detections is empty)" in " ".join(out.split())
    assert (tmp_path / "out" / "grey.png").stat().st_size > 0


def test_predict_without_network_says_where_to_put_the_weights(photos, tmp_path):
    # A proxy that does not exist stands for a machine without a network.
    nowhere = "http://127.0.0.1:9"
    cache = str(tmp_path / "cache")
    done = run("predict", photos, "--output", tmp_path / "out", FVCORE_CACHE=cache,
               http_proxy=nowhere, https_proxy=nowhere)  # fmt: skip
    assert done.returncode == 1
    assert "model_final_f10217.pkl" in done.stderr and "https://" in done.stderr
    assert cache in done.stderr
    assert "--random-weights" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("predict", "nothing.jpg", "--random-weights"), "'nothing.jpg' is no image"),
        (("predict", ".", "--random-weights"), "holds no image"),
        (("train", "COCO-Detection/faster_rcn_R_50_FPN_1x.yaml"), "faster_rcnn_R_50_FPN_1x.yaml"),
        (("train", SMALL_MODEL, "--train-data", "a.json", "b"), "'a.json' does not exist"),
        (("train", SMALL_MODEL, "--train-data", "list.json", "."), "it holds a list"),
        (("train", SMALL_MODEL, "--train-data", "text.json", "."), "is no JSON file"),
        (("train", SMALL_MODEL, "--train-data", "names.json", "."), "entries with 'id' and 'name'"),
        (("eval", SMALL_MODEL, "--weights", "gone.pth"), "'gone.pth' not found"),
        (("train", SMALL_MODEL, "--set", "SOLVER.BASE_LRR=1"), "SOLVER.BASE_LR"),
        (("train", "--data", "."), "No dataset is recognised"),
        (("train",), "Name a config"),
        (("eval", "own.yaml"), "own.yaml"),
        (("visualize", "nothing.json"), "neither a registered dataset nor"),
        (("zoo", "list", "--task", "poetry"), "'poetry'"),
    ],
)
def test_mistakes_are_one_sentence_without_traceback(run_here, tmp_path, arguments, sentence):
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "names.json").write_text('{"images": [], "categories": ["cat"]}')
    code, _, err = run_here(*arguments)
    assert code == 1 and err.startswith("error: ") and sentence in err


def dataset_of(photos):
    """COCO file, without annotations, of the colour photograph."""
    image = {"id": 1, "file_name": "colour.jpg", "height": 90, "width": 120}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (photos / "dataset.json").write_text(json.dumps(content))
    return photos / "dataset.json"


def test_a_bare_assertion_is_no_mistake_of_the_user(run_here, monkeypatch):
    def broken(_):
        raise AssertionError

    monkeypatch.setattr("detectron2.engine.predict_command.find_images", broken)
    with pytest.raises(AssertionError):
        run_here("predict", "a.jpg")


def test_an_error_in_a_worker_of_the_loader_is_one_sentence(run_here, monkeypatch):
    from torch._utils import ExceptionWrapper

    def in_a_worker(_):
        try:
            raise UnreadableImageError("The image 'a.jpg' cannot be decoded\n(it is empty).")
        except OSError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    monkeypatch.setattr("detectron2.engine.predict_command.find_images", in_a_worker)
    code, _, err = run_here("predict", "a.jpg")
    assert code == 1 and err.startswith(
        "error: The image 'a.jpg' cannot be decoded\n(it is empty).\n(DETECTRON2_TRACEBACK"
    )


GOOD_ROW = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist"),
        ("{", "is no JSON file"),
        ("{}", "must hold a list of detections, not a dict"),
        (
            [GOOD_ROW, {"image_id": 1, "bbox": [1, 2, 3, 4]}],
            "1 of .* without category_id and score",
        ),
        ([{**GOOD_ROW, "category_id": 9}], "category 9; the dataset has 1"),
        ([{**GOOD_ROW, "image_id": 77}], "image ids of .*dataset.json. do not match"),
    ],
    ids=["absent", "no JSON", "no list", "incomplete", "category", "other images"],
)
def test_predictions_that_cannot_be_drawn_are_explained(
    run_here, photos, tmp_path, content, sentence
):
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "found.json").write_text(text)
    code, _, err = run_here(
        "visualize", dataset_of(photos), "--images", photos, "--predictions", "found.json"
    )
    assert code == 1 and re.search(sentence, err), err


def test_pictures_of_images_of_one_name_in_two_folders_are_both_drawn(photos, tmp_path):
    content = json.loads(dataset_of(photos).read_text())
    (photos / "more").mkdir()
    (photos / "more" / "colour.jpg").write_bytes((photos / "colour.jpg").read_bytes())
    content["images"].append({**content["images"][0], "id": 2, "file_name": "more/colour.jpg"})
    (photos / "two.json").write_text(json.dumps(content))
    count = visualize_dataset(
        str(photos / "two.json"), image_root=photos, output=tmp_path / "drawn"
    )
    assert count == 2
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "colour.jpg",
        "colour_2.jpg",
    ]


@pytest.mark.parametrize("verb", ["predict", "visualize", "quickstart"])
def test_output_that_cannot_be_written_is_said_before_any_work(run_here, photos, tmp_path, verb):
    taken = tmp_path / "taken"
    taken.write_text("")
    arguments = {
        "predict": (photos, "--config", SMALL_MODEL, "--random-weights", "--output", taken),
        "visualize": (dataset_of(photos), "--images", photos, "--output", taken),
        "quickstart": ("--output", taken / "sub"),
    }[verb]
    code, _, err = run_here(verb, *arguments)
    assert code == 1 and err.startswith("error: The output folder")
    assert str(taken) in err and "name another one" in err


def test_zoo_lists_models_with_scores_and_licence():
    done = run("zoo", "list", "--task", "keypoints", "--sort", "ap")
    assert done.returncode == 0, done.stderr
    names = [line for line in done.stdout.splitlines() if "keypoint_rcnn" in line]
    assert len(names) == 5 and "R_101" in names[0]  # 66.1 AP, the best
    assert "CC BY-SA" in done.stdout


def test_zoo_shows_an_architecture_in_numbers(run_here):
    code, out, _ = run_here("zoo", "show", SMALL_MODEL, "--size", 64, 96)
    assert code == 0
    for text in ("GeneralizedRCNN", "FPN > ResNet", "parameters: 5,339,450", "64 x 96", "GFLOPs"):
        assert text in out
    assert "none are published" in out


def test_zoo_shows_published_numbers_and_the_licence_of_the_weights(run_here):
    code, out, _ = run_here("zoo", "show", "COCO-Detection/retinanet_R_50_FPN_3x", "--no-build")
    assert code == 0 and "parameters" not in out
    for text in (
        "box_ap: 38.7",
        "memory of training, GB per GPU: 4.1",
        "CC BY-SA 3.0",
        "5bd44e.pkl",
    ):
        assert text in out


def test_zoo_converts_there_and_back(run_here, tmp_path):
    weights = torch.arange(6.0).view(2, 3)
    torch.save({"model": {"a.weight": weights}}, tmp_path / "in.pth")
    for source, target in (("in.pth", "a.pkl"), ("a.pkl", "out.safetensors")):
        code, out, _ = run_here("zoo", "convert", source, target)
        assert code == 0 and f"{target}: 1 tensors" in out
    assert torch.equal(load_file(tmp_path / "out.safetensors")["a.weight"], weights)


def test_zoo_downloads_to_the_cache_and_prints_where(run_here, monkeypatch):
    addresses = []
    monkeypatch.setattr(
        PathManager, "get_local_path", lambda path: addresses.append(path) or "/cache/file.pkl"
    )
    code, out, _ = run_here("zoo", "download", "COCO-Detection/retinanet_R_50_FPN_3x.yaml")
    assert (code, out) == (0, "/cache/file.pkl\n")
    assert addresses[0].endswith("/190397829/model_final_5bd44e.pkl")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("zoo", "show", "faster_rcn_R_50_FPN_1x.yaml"), "faster_rcnn_R_50_FPN_1x.yaml"),
        (("zoo", "download", "Misc/mask_rcnn_R_50_FPN_3x_gm.yaml"), "mask_rcnn_R_50_FPN_3x_gn"),
        (("zoo", "show", "common/train.py"), "is a piece of configs and describes no model"),
        (("zoo", "convert", "nothing.pkl", "a.pth"), "no checkpoint 'nothing.pkl'"),
        (("zoo", "convert", "open.py", "a.txt"), "must end in .safetensors, .pth, .pkl"),
        (("train", "open.py"), "'open.py' is no valid Python, line 1"),
        (("train", "wrong.py"), "'wrong.py', line 2: AttributeError"),
        (("train", "newer.yaml"), "'newer.yaml' is of VERSION 3"),
        (("train", "heir.yaml"), "'heir.yaml' names 'gone.yaml' as its _BASE_"),
        (("eval", "broken.yaml", "--weights", "x.pth"), "'broken.yaml' is no valid YAML, line 2"),
    ],
)
def test_mistakes_around_models_and_configs_are_one_sentence(
    run_here, tmp_path, arguments, sentence
):
    (tmp_path / "open.py").write_text("x = (1,\n")
    (tmp_path / "wrong.py").write_text("x = 1\ny = x.z\n")
    (tmp_path / "heir.yaml").write_text("_BASE_: gone.yaml\n")
    (tmp_path / "newer.yaml").write_text("VERSION: 3\n")
    (tmp_path / "broken.yaml").write_text("A: [1\nB: 2\n")
    code, _, err = run_here(*arguments)
    assert code == 1 and err.startswith("error: ") and sentence in err


def test_weights_that_cannot_predict_are_refused_without_traceback(run_here, photos, tmp_path):
    cfg = model_zoo.get_config(SMALL_MODEL)
    cfg.MODEL.DEVICE = "cpu"
    state = build_model(cfg).state_dict()
    weight = "roi_heads.box_predictor.cls_score.weight"
    torch.save({"model": {**state, weight: state[weight][:4]}}, tmp_path / "three.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": print}))
    for name, sentence in {
        "three.pth": "three.pth' does not fit this config.*NUM_CLASSES",
        "evil.pkl": "builtins.print, which could run code",
        "photos/colour.jpg": "colour.jpg' is no checkpoint",
    }.items():
        code, _, err = run_here("predict", photos, "--config", SMALL_MODEL, "--weights", name)
        assert code == 1 and "Traceback" not in err and re.search(f"error: .*{sentence}", err), err


def test_weights_of_another_architecture_are_refused_before_the_first_image(photos, tmp_path):
    state = {f"backbone.net.blocks.{i}.mlp.fc1.weight": torch.zeros(2) for i in range(300)}
    torch.save({"model": state}, tmp_path / "vit.pth")
    done = run("predict", photos, "--config", SMALL_MODEL, "--weights", tmp_path / "vit.pth",
               "--output", tmp_path / "out")  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "backbone.net.blocks.* (300 tensors)" in done.stderr
    assert "vit.pth' does not fit this config: 0 of" in done.stderr
    assert len(done.stderr.splitlines()) < 30
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_doctor_says_which_kernel_runs_for_every_op(run_here):
    from detectron2.ops.dispatch import explain

    code, out, err = run_here("doctor", "--no-warm")
    assert code == 0, err
    for choice in explain(("cpu",)):
        assert choice.op in out
    assert "torch" in out.lower()
