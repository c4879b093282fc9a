"""The page on adding parts of one's own, run as it stands."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def write_pets(folder):
    """The table and the images that the page reads."""
    (folder / "pets/images").mkdir(parents=True)
    rows = [["file", "height", "width", "x0", "y0", "x1", "y1", "label"]]
    for name, label in (("a.png", "cat"), ("b.png", "dog"), ("b.png", "cat")):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "pets/images" / name)
        rows.append([name, 48, 64, 8, 8, 40, 30, label])
    with open(folder / "pets/boxes.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Names that the page defines, and its models; what it registers is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("page")
    write_pets(folder)
    names, models = {"__name__": "extending"}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for registry in (BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_BOX_HEAD_REGISTRY):
            patch.setattr(registry, "_obj_map", dict(registry._obj_map))
        try:
            for index, block in enumerate(BLOCKS):
                exec(compile(block, f"{PAGE}, block {index}", "exec"), names)
                models += [names["model"]] if "model = " in block else []
            yield names, models
        finally:
            DatasetCatalog.pop("pets", None)
            MetadataCatalog.pop("pets", None)


def test_every_part_takes_less_than_forty_lines():
    assert len(BLOCKS) == 7
    for block in BLOCKS:
        assert len(block.splitlines()) < 40


def test_the_page_runs_and_its_parts_are_used(page):
    names, (with_backbone, with_head, whole) = page
    assert isinstance(with_backbone.backbone, names["PlainBackbone"])
    assert isinstance(with_head.roi_heads.box_head, names["MeanBoxHead"])
    assert with_head.roi_heads.box_predictor.cls_score.in_features == 48
    assert isinstance(whole, names["PresenceClassifier"])
    assert names["trainer"].iter == 2
    assert Path("output/model_final.pth").is_file()


def test_the_parts_train_and_predict(page):
    _, models = page
    target = Instances(
        (40, 50), gt_boxes=Boxes(torch.tensor([[4.0, 4, 30, 30]])), gt_classes=torch.tensor([1])
    )
    batch = [{"image": torch.rand(3, 40, 50) * 255, "instances": target}]
    for model in models:
        with EventStorage(0):
            sum(model.train()(batch).values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        with torch.no_grad():
            (result,) = model.eval()(batch)
        assert result.get("instances") is not None or result["presence"].shape == (2,)


def test_the_dataset_has_a_record_per_image(page):
    first, second = DatasetCatalog.get("pets")
    assert [len(first["annotations"]), len(second["annotations"])] == [1, 2]
    assert [a["category_id"] for a in second["annotations"]] == [1, 0]
