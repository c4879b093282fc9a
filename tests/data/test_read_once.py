"""While a program starts, annotation files are parsed once, however often they are asked for."""

import json
import pickle
from collections import Counter

import pytest
from folder_datasets import make_content

from detectron2.data import build_detection_test_loader
from detectron2.data._read_once import ReadAhead, files_read_once, forget_files, parsed
from detectron2.data.datasets.auto import nodes
from detectron2.data.datasets.convert import write_content
from detectron2.engine import train_command
from detectron2.engine.data_folder import read_data_folder
from detectron2.evaluation.default_evaluators import build_evaluator

pytestmark = pytest.mark.usefixtures("catalogs_as_before")


def test_a_file_is_parsed_once_until_it_changes(tmp_path):
    path, calls = tmp_path / "a.json", []
    path.write_text("[1]")
    read = lambda: parsed(path, lambda: calls.append(1) or json.loads(path.read_text()))  # noqa: E731
    assert read() == read() == [1] and len(calls) == 2
    with files_read_once():
        assert read() == read() == [1] and len(calls) == 3
        path.write_text("[1, 2]")
        assert read() == [1, 2] and len(calls) == 4
        with files_read_once():
            read()
        read()
        assert len(calls) == 4
        forget_files()
        assert read() == [1, 2] and len(calls) == 5
    assert read() == [1, 2] and len(calls) == 6


def test_records_read_ahead_are_handed_out_once():
    calls = []
    reader = ReadAhead(lambda: calls.append(1) or [len(calls)])
    assert reader.look() == [1] and reader() == [2]
    with files_read_once():
        ahead = reader.look()
        assert reader() is ahead and reader() == [4]
        reader.look()
    assert reader() == [6]


def test_records_read_ahead_are_copied_where_several_ask():
    calls = []
    reader = ReadAhead(lambda: calls.append(1) or [[len(calls)]])
    with files_read_once(several_ask=True):
        ahead = reader.look()
        first, second, third = reader(), reader(), reader()
        assert first is ahead and first == second == third == [[1]]
        assert len({id(each[0]) for each in (first, second, third)}) == 3
        forget_files()
        assert reader() == [[2]]
    assert reader() == [[3]]


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_an_evaluation_on_a_folder_reads_its_split_once(tmp_path, monkeypatch, to):
    write_content(make_content(tmp_path / "images", "polygons"), tmp_path / "data", to)
    reads = []
    read = ReadAhead.read_now
    monkeypatch.setattr(ReadAhead, "read_now", lambda self: reads.append(1) or read(self))
    monkeypatch.setattr(train_command, "DefaultTrainer", _Trainer)
    monkeypatch.setattr(train_command, "DetectionCheckpointer", lambda *args, **kwargs: _Trainer)
    monkeypatch.setattr(train_command, "refuse_foreign_weights", lambda *args: None)
    monkeypatch.setattr(train_command, "speed_up", lambda model, precision: model)
    train_command.run_evaluate(
        train_command.TrainOptions(
            data=tmp_path / "data",
            weights="none.pth",
            output=tmp_path / "out",
            overrides=["DATALOADER.NUM_WORKERS=0"],
        )
    )
    assert len(reads) == len(read_data_folder(tmp_path / "data").found.splits)


class _Trainer:
    """Makes what an evaluation needs, and evaluates nothing."""

    report = None
    load = build_model = staticmethod(lambda *args: None)

    @staticmethod
    def test(cfg, model):
        loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])
        evaluator = build_evaluator(cfg.DATASETS.TEST[0], cfg.OUTPUT_DIR)
        assert len(loader.dataset) == len(evaluator._coco_api.getImgIds())
        return {}


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_a_training_on_a_folder_reads_each_file_once(tmp_path, monkeypatch, to):
    write_content(make_content(tmp_path / "images", "polygons"), tmp_path / "data", to)
    parses, seen = Counter(), {}
    loads = json.loads

    def counted(text, *arguments, **options):
        parses[text[:200]] += 1
        return loads(text, *arguments, **options)

    def start(options):
        seen["trained on"] = train_command.DatasetCatalog.get("data_train")

    monkeypatch.setattr(nodes.json, "loads", counted)
    monkeypatch.setattr(train_command, "_train", start)
    train_command.run_train(
        train_command.TrainOptions(data=tmp_path / "data", num_gpus=0, random_weights=True)
    )
    assert len(seen["trained on"]) == 3
    if to == "coco":
        assert len(parses) == 2 and set(parses.values()) == {1}
    folder = read_data_folder(tmp_path / "data")
    # Ranks get it by pickle, and need not recognise the folder anew.
    sent = pickle.loads(pickle.dumps(folder))
    for split, read in folder.found.splits.items():
        assert sent.found.splits[split]() == read()
