"""A server under load: good requests beside malformed, oversized and slow ones."""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from serving_load import Case, instances_of, load_and_stop
from serving_support import encoded, form, picture_of

from detectron2.engine.load_predictor import ModelSource, load_predictor
from detectron2.engine.serving.answers import answer_as_json
from detectron2.engine.serving.model import served_model
from detectron2.engine.serving.pictures import read_picture

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
PROGRAM = str(Path(__file__).with_name("serving_program.py"))
PNG = "image/png"


def bad_cases(photo, too_long, too_large):
    body, headers = form(photo)
    kind = headers["content_type"]
    return [
        Case("truncated", photo[: len(photo) // 2], PNG, (400,)),
        Case("no image", b"<html>not a picture</html>", PNG, (400,)),
        Case("broken JSON", b'{"image": "', "application/json", (400,)),
        Case("broken form", body[:60], kind, (400,)),
        Case("unknown type", photo, "text/plain", (415,)),
        Case("too many bytes", bytes(too_long), PNG, (413,)),
        Case("too many pixels", too_large, PNG, (413,)),
        Case("too slow", photo, PNG, (408,), parts=4, pause=1.0),
        Case("nonsense", photo, "image/png\r\nno colon here", (400,)),
    ]


def good_cases(name, photo, check):
    body, headers = form(photo)
    text = json.dumps({"image": base64.b64encode(photo).decode()}).encode()
    wanted = (200,)
    return [
        Case(f"{name} as a form", body, headers["content_type"], wanted, check),
        Case(f"{name} as JSON", text, "application/json", wanted, check),
        Case(f"{name}, slowly", photo, PNG, wanted, check, parts=3, pause=0.1),
        Case(f"{name}, drawn", photo, PNG, wanted, is_png, headers="Accept: image/png\r\n"),
    ]


def is_png(body):
    return None if body.startswith(b"\x89PNG") and body.endswith(b"IEND\xaeB`\x82") else body[:20]


def report(load):
    """For people: `pytest -s` shows it."""
    done = sorted(load.seconds)
    by_status = {}
    for (_, status), count in load.answers.items():
        by_status[status] = by_status.get(status, 0) + count
    print(
        f"\n{sum(by_status.values())} answers {by_status}, {load.busy} times 503; "
        f"median {done[len(done) // 2]:.2f} s, slowest {done[-1]:.2f} s; "
        f"memory {load.memory[0] / 1e6:.0f}, {load.memory[len(load.memory) // 3] / 1e6:.0f}, "
        f"{load.memory[-1] / 1e6:.0f} MB at the start, after a third and at the end"
    )


def test_two_hundred_clients_get_what_they_deserve_and_sigterm_drops_nobody():
    cases = []
    for number, (x, y) in enumerate(((10, 20), (40, 5), (2, 30))):
        box = (x, y, x + 25, y + 15)

        def check(body, box=box):
            (found,) = instances_of(body)
            expected = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            return None if found["bbox"] == expected else found["bbox"]

        photo = encoded(picture_of(box))
        cases += good_cases(f"photo {number}", photo, check)
    wrong = bad_cases(photo, 300_000, encoded(np.zeros((6000, 6000), np.uint8)))
    load, statuses, code, output, errors = load_and_stop(
        [PROGRAM], cases + wrong, cases[0], clients=200, seconds=1.5
    )
    report(load)
    assert load.wrong == []
    seen = {name for name, _ in load.answers}
    assert {case.name for case in cases + wrong} - {"too slow"} <= seen
    assert statuses == [200] * 20 and code == 0
    assert "Stopped" in output and "Traceback" not in errors


SERVE = ["-m", "detectron2.cli.main", "serve", "--port", "0", "--device", "cpu"]
LIMITS = ["--queue", "256", "--max-upload", "2", "--read-timeout", "2", "--min-score", "0"]


@pytest.mark.slow
def test_a_real_model_under_thirty_seconds_of_load_stays_right_and_small(tmp_path):
    from small_models import small_config, small_model

    cfg = small_config("Mask R-CNN FPN")
    torch.save(small_model("Mask R-CNN FPN").state_dict(), tmp_path / "small.pth")
    (tmp_path / "small.yaml").write_text(cfg.dump())
    source = ModelSource(str(tmp_path / "small.yaml"), str(tmp_path / "small.pth"))
    command = [*SERVE, source.config, "--weights", source.weights, *LIMITS]
    load = put_mixed_load(source, command, seconds=30)
    # Threads and allocators have warmed up after a third of the time.
    settled = max(load.memory[: len(load.memory) // 3])
    assert load.memory[-1] < 1.05 * settled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "suffix"),
    [("onnx", ".onnx"), ("torchscript", ".ts"), ("openvino", ".xml")],
    ids=["onnx", "torchscript", "openvino"],
)
def test_exported_files_under_load_stay_right(format, suffix, tmp_path):
    from small_models import small_model

    from detectron2.export import export

    path = str(tmp_path / f"model{suffix}")
    sizes = {"shortest_edge": 96, "longest_edge": 160}
    export(small_model("Mask R-CNN FPN"), format, path, **sizes)
    put_mixed_load(ModelSource(path), [*SERVE, path, *LIMITS], seconds=10)


def put_mixed_load(source, command, seconds):
    """Assert that 200 clients of a `detectron2 serve` get what `source` predicts.

    Returns:
        What happened.
    """
    from small_models import picture

    model = served_model(load_predictor(source), "small", 10**7)
    cases = []
    for number, size in enumerate(((72, 96), (96, 72), (120, 96), (72, 96))):
        photo = encoded(picture(*size, seed=number))
        pixels = read_picture(photo, model.image_format, 10**7)
        (output,) = model.run([model.prepare(pixels)])
        expected = answer_as_json(output, model, size, 0.0)["instances"]
        assert expected

        def check(body, expected=expected):
            return difference(instances_of(body), expected)

        cases += good_cases(f"photo {number}", photo, check)
    wrong = bad_cases(photo, 3_000_000, encoded(np.zeros((6000, 6000), np.uint8)))
    load, statuses, code, output, errors = load_and_stop(
        command, cases + wrong, cases[0], clients=200, seconds=seconds
    )
    report(load)
    assert load.wrong == []
    assert {name for name, _ in load.answers} == {case.name for case in cases + wrong}
    assert statuses == [200] * 20 and code == 0
    assert "Stopped" in output and "Traceback" not in errors
    return load


def difference(found, expected):
    """What distinguishes two lists of instances, beyond what a batch may change."""
    if len(found) != len(expected):
        return f"{len(found)} instances instead of {len(expected)}"
    for one, other in zip(found, expected):
        if one["category"] != other["category"] or abs(one["score"] - other["score"]) > 1e-3:
            return f"{one['category']} {one['score']}, not {other['category']} {other['score']}"
        if np.abs(np.subtract(one["bbox"], other["bbox"])).max() > 0.1:
            return f"{one['bbox']}, not {other['bbox']}"
        if "segmentation" not in one:
            return "no mask"
    return None
