import pickle
import subprocess
import sys

import numpy as np
import pytest

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import _DatasetCatalog, _MetadataCatalog
from detectron2.utils.serialize import PicklableWrapper


@pytest.fixture
def datasets():
    return _DatasetCatalog()


@pytest.fixture
def metadata():
    return _MetadataCatalog()


def test_a_dataset_is_loaded_anew_at_every_get(datasets):
    datasets.register("a", lambda: [{"x": 1}])
    first, second = datasets.get("a"), datasets.get("a")
    assert first == second and first is not second
    assert datasets.list() == ["a"] and "a" in datasets


def test_a_name_is_taken_once(datasets):
    datasets.register("a", list)
    with pytest.raises(AssertionError, match="'a' is already registered"):
        datasets.register("a", list)
    datasets.remove("a")
    datasets.register("a", list)


def test_registering_a_list_instead_of_a_function_says_what_to_do(datasets):
    with pytest.raises(TypeError, match="lambda: dataset"):
        datasets.register("a", [{"file_name": "a.jpg"}])


def test_an_unknown_dataset_names_the_nearest():
    with pytest.raises(KeyError, match="coco_2017_train"):
        DatasetCatalog.get("coco_2017_trian")


def test_metadata_are_set_once(metadata):
    m = metadata.get("d").set(thing_classes=["a"], colors=np.arange(3))
    assert m.set(thing_classes=["a"], colors=np.arange(3)) is m
    with pytest.raises(AssertionError, match="'thing_classes' of the dataset 'd'"):
        m.thing_classes = ["b"]
    assert metadata.get("d") is m


def test_missing_metadata_name_the_nearest(metadata):
    m = metadata.get("d").set(thing_classes=["a"])
    with pytest.raises(AttributeError, match="'thing_classes'"):
        _ = m.thing_class
    assert m.get("thing_class") is None and m.get("thing_class", 7) == 7


def test_convention_old_metadata_names_still_work(metadata, caplog):
    m = metadata.get("d")
    m.class_names = ["a"]
    assert m.thing_classes == ["a"] and m.class_names == ["a"]
    assert "thing_classes" in caplog.text


def test_as_dict_is_a_copy_and_holds_the_name(metadata):
    m = metadata.get("d").set(x=1)
    m.as_dict()["x"] = 2
    assert m.as_dict() == {"name": "d", "x": 1}


def test_deferred_metadata_are_computed_once_when_first_needed(metadata):
    calls = []

    def fill():
        calls.append(1)
        return {"thing_classes": ["a"]}

    metadata.defer("d", fill)
    m = metadata.get("d")
    assert m.name == "d" and not calls
    assert m.thing_classes == ["a"] and m.as_dict()["thing_classes"] == ["a"] and len(calls) == 1


def test_deferred_metadata_can_be_deleted_before_they_were_needed(metadata):
    # Projects delete an attribute of a builtin dataset to set another value.
    metadata.defer("d", lambda: {"thing_classes": ["a"], "ignore_label": 255})
    del metadata.get("d").thing_classes
    metadata.get("d").thing_classes = ["b"]
    assert metadata.get("d").as_dict() == {"name": "d", "thing_classes": ["b"], "ignore_label": 255}


def test_deferred_metadata_conflict_like_others(metadata):
    metadata.defer("d", lambda: {"thing_classes": ["a"]})
    with pytest.raises(AssertionError, match="already set"):
        metadata.get("d").thing_classes = ["b"]


def test_metadata_travel_to_other_processes(metadata):
    metadata.defer("d", lambda: {"thing_classes": ["a"]})
    assert pickle.loads(pickle.dumps(metadata.get("d"))).thing_classes == ["a"]


def test_removing_what_is_not_there_is_an_error(datasets, metadata):
    with pytest.raises(KeyError, match="nope"):
        datasets.remove("nope")
    with pytest.raises(KeyError, match="nope"):
        metadata.remove("nope")


def test_convention_builtin_files_are_looked_up_when_used(monkeypatch):
    # In a process of its own: metadata are worked out once.
    code = (
        "import os; from detectron2.data import MetadataCatalog; "
        "os.environ['DETECTRON2_DATASETS'] = '/elsewhere'; "
        "print(MetadataCatalog.get('coco_2017_val').json_file)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "/elsewhere/coco/annotations/instances_val2017.json"


def test_a_missing_builtin_dataset_says_what_to_set():
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
        DatasetCatalog.get("coco_2017_val")


def test_builtin_classes():
    assert len(MetadataCatalog.get("coco_2017_train").thing_classes) == 80
    panoptic = MetadataCatalog.get("coco_2017_val_panoptic")
    assert len(panoptic.stuff_classes) == 133 and panoptic.label_divisor == 1000
    assert MetadataCatalog.get("coco_2017_val_panoptic_separated").stuff_classes[0] == "things"
    assert len(MetadataCatalog.get("cityscapes_fine_sem_seg_val").stuff_classes) == 19
    assert len(MetadataCatalog.get("ade20k_sem_seg_val").stuff_classes) == 150


def test_functions_that_pickle_refuses_are_sent_and_called():
    offset = 3
    wrapped = PicklableWrapper(lambda x: x + offset)
    assert pickle.loads(pickle.dumps(wrapped))(4) == 7


def test_wrapping_twice_is_the_same_as_once():
    wrapped = PicklableWrapper(PicklableWrapper([1, 2]))
    assert wrapped._obj == [1, 2] and wrapped.index(2) == 1
    with pytest.raises(AttributeError):
        _ = wrapped.nope
