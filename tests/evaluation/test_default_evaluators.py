import pytest

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    default_evaluators,
)
from detectron2.evaluation.default_evaluators import EVALUATORS, build_evaluator


def test_a_coco_dataset_gets_a_coco_evaluator(make_coco, tmp_path):
    coco = make_coco(evaluator_type="coco")
    cfg = get_cfg()
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.2]
    evaluator = build_evaluator(coco.name, str(tmp_path), cfg)
    assert type(evaluator) is COCOEvaluator
    assert evaluator._output_dir == str(tmp_path)
    assert evaluator._kpt_oks_sigmas == [0.1, 0.2]


def test_a_config_without_test_node_is_fine(make_coco):
    coco = make_coco(evaluator_type="coco")
    assert build_evaluator(coco.name, cfg={"train": {}})._kpt_oks_sigmas == ()


def test_a_panoptic_dataset_gets_three_evaluators_as_one(make_coco, tmp_path):
    coco = make_coco(
        evaluator_type="coco_panoptic_seg",
        stuff_classes=["sky"],
        ignore_label=255,
        stuff_dataset_id_to_contiguous_id={1: 0},
        panoptic_json="unread",
        panoptic_root="unread",
    )
    DatasetCatalog.register(coco.name, lambda: [{"file_name": "a", "sem_seg_file_name": "b"}])
    try:
        evaluator = build_evaluator(coco.name, str(tmp_path))
    finally:
        DatasetCatalog.remove(coco.name)
    assert isinstance(evaluator, DatasetEvaluators)
    assert [type(e).__name__ for e in evaluator._evaluators] == [
        "SemSegEvaluator",
        "COCOEvaluator",
        "COCOPanopticEvaluator",
    ]


def test_a_project_adds_a_row_for_its_own_type(make_coco, monkeypatch):
    class Mine(DatasetEvaluator):
        pass

    monkeypatch.setitem(EVALUATORS, "mine", (lambda name, output_dir, cfg: Mine(),))
    coco = make_coco(evaluator_type="mine")
    assert isinstance(build_evaluator(coco.name), Mine)


@pytest.mark.parametrize("kind", ["unheard_of", None])
def test_an_unknown_type_is_an_error_that_says_what_to_do(make_coco, kind):
    coco = make_coco(**({} if kind is None else {"evaluator_type": kind}))
    with pytest.raises(NotImplementedError, match=f"{kind!r}.*cityscapes_instance.*EVALUATORS"):
        build_evaluator(coco.name)


def test_every_builtin_dataset_has_evaluators():
    kinds = set()
    for name in ("coco_2017_val", "keypoints_coco_2017_val", "voc_2007_test"):
        kinds.add(MetadataCatalog.get(name).evaluator_type)
    assert kinds <= set(EVALUATORS)
    assert default_evaluators.__all__ == ["EVALUATORS", "EvaluatorFactory", "build_evaluator"]


def test_what_was_chosen_is_logged(make_coco, caplog):
    coco = make_coco(evaluator_type="coco")
    with caplog.at_level("INFO"):
        build_evaluator(coco.name)
    assert f"{coco.name} is evaluated by COCOEvaluator (evaluator_type 'coco')" in caplog.text
