import pytest

from detectron2.model_zoo._short_names import full_name
from detectron2.model_zoo.model_zoo import config_names


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("faster_rcnn_R_50_FPN", "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"),
        ("faster_rcnn_R_50_FPN_1x", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"),
        ("faster_rcnn_R_50_C4", "COCO-Detection/faster_rcnn_R_50_C4_3x.yaml"),
        ("mask_rcnn_vitdet_b_100ep", None),
        ("Base-RCNN-FPN", None),
        ("nonsense", None),
    ],
)
def test_a_short_name_finds_the_longest_schedule_on_coco(short, name):
    assert full_name(short, config_names()) == name
