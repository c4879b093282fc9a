import numpy as np
import pytest
import torch
from toy_project import (
    LAZY_CONFIG,
    ToyDetector,
    forget_dataset,
    register_dataset,
    toy_config,
)

from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor, _device_images


@pytest.fixture
def cfg(tmp_path):
    name = register_dataset(tmp_path / "images", f"predict_{tmp_path.name}")
    torch.save({"model": ToyDetector().state_dict()}, tmp_path / "weights.pth")
    cfg = toy_config(tmp_path / "out", name)
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    yield cfg
    forget_dataset(name)


BLUE = np.zeros((60, 90, 3), dtype=np.uint8)
BLUE[:, :, 0] = 255  # BGR


def test_convention_attributes_and_output(cfg):
    predictor = DefaultPredictor(cfg)
    assert predictor.metadata.thing_classes == ["thing"]
    assert isinstance(predictor.aug, T.ResizeShortestEdge)
    assert predictor.input_format == "BGR"
    assert not predictor.model.training
    found = predictor(BLUE)["instances"]
    assert found.image_size == (60, 90)
    assert not found.scores.requires_grad


def test_the_weights_of_the_config_are_loaded(cfg):
    predictor = DefaultPredictor(cfg)
    saved = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    assert torch.equal(predictor.model.layer.weight, saved["layer.weight"])


@pytest.mark.parametrize(("order", "score"), [("BGR", 1.0), ("RGB", 0.0)])
def test_convention_images_are_given_as_bgr_whatever_the_model_takes(cfg, order, score):
    cfg.INPUT.FORMAT = order
    assert DefaultPredictor(cfg)(BLUE)["instances"].scores.item() == pytest.approx(score)


def test_images_are_resized_as_for_testing(cfg):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 30, 40
    prepared = DefaultPredictor(cfg).prepare(BLUE)
    assert prepared["image"].shape == (3, 27, 40)
    assert prepared["image"].dtype == torch.float32
    assert (prepared["height"], prepared["width"]) == (60, 90)


def test_the_config_of_the_caller_is_not_changed(cfg):
    cfg.freeze()
    predictor = DefaultPredictor(cfg)
    predictor.cfg.MODEL.WEIGHTS = "changed"
    assert cfg.MODEL.WEIGHTS != "changed"


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((1, 4, 4, 3)), "a.jpg"])
def test_what_is_no_image_is_refused(cfg, image):
    with pytest.raises(ValueError, match=r"shape \(height, width, 3\)"):
        DefaultPredictor(cfg)(image)


def test_an_unknown_channel_order_is_refused(cfg):
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'L'"):
        DefaultPredictor(cfg)


def test_without_test_datasets_there_is_no_metadata(cfg):
    cfg.DATASETS.TEST = ()
    assert not hasattr(DefaultPredictor(cfg), "metadata")


def test_a_yaml_file_names_a_model(cfg, tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(cfg.dump())
    assert DefaultPredictor(path)(BLUE)["instances"].scores.item() == 1.0


LAZY_TEST_DATA = """
from detectron2.data import transforms as T

dataloader["test"] = dict(
    dataset=dict(names="NAME"),
    mapper=dict(
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=30, max_size=40)],
        image_format="RGB",
    ),
)
"""


def test_a_lazy_config_names_a_model(cfg, tmp_path):
    path = tmp_path / "toy.py"
    test_data = LAZY_TEST_DATA.replace("NAME", cfg.DATASETS.TEST[0])
    weights = f"train['init_checkpoint'] = {cfg.MODEL.WEIGHTS!r}\n"
    path.write_text(LAZY_CONFIG + test_data + weights)
    predictor = DefaultPredictor(str(path))
    assert predictor.input_format == "RGB"
    assert predictor.metadata.thing_classes == ["thing"]
    assert predictor.prepare(BLUE)["image"].shape == (3, 27, 40)
    assert predictor(BLUE)["instances"].scores.item() == pytest.approx(0.0)


def test_an_unknown_name_is_told_its_neighbours():
    with pytest.raises(FileNotFoundError, match="Similar names"):
        DefaultPredictor("COCO-Detection/faster_rcnn_R50_FPN_1x.yaml")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_convention_a_stream_gives_what_single_calls_give(cfg, batch_size):
    predictor = DefaultPredictor(cfg)
    random = np.random.default_rng(0)
    sizes = [(60, 90), (90, 60), (60, 90), (50, 50), (60, 90)]
    images = [random.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    for image, streamed in zip(images, predictor.stream(images, batch_size), strict=True):
        alone = predictor(image)["instances"]
        assert streamed["instances"].image_size == image.shape[:2]
        assert torch.allclose(streamed["instances"].scores, alone.scores)


@pytest.mark.parametrize("order", ["BGR", "RGB"])
@pytest.mark.parametrize("size", [(60, 90), (150, 90), (27, 40), (300, 20)])
def test_what_is_resized_on_the_models_device_has_the_same_bits(cfg, order, size, monkeypatch):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 30, 40
    cfg.INPUT.FORMAT = order
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    predictor = DefaultPredictor(cfg)
    expected = predictor.prepare(image)
    monkeypatch.setattr(_device_images, "DEVICE_TYPES", ("cpu",))  # as if it were a GPU
    resized = []
    resize = _device_images.resize_planes
    monkeypatch.setattr(
        _device_images, "resize_planes", lambda *args: resized.append(1) or resize(*args)
    )
    actual = predictor.prepare(image)
    # Whether rows or columns of a very tall image come first depends on Pillow's version.
    assert len(resized) == (size != (300, 20))
    assert torch.equal(actual["image"], expected["image"])
    assert actual["image"].dtype == torch.float32
    assert (actual["height"], actual["width"]) == size


def test_other_augmentations_and_other_dtypes_stay_on_the_host(cfg, monkeypatch):
    monkeypatch.setattr(_device_images, "DEVICE_TYPES", ("cpu",))
    monkeypatch.setattr(_device_images, "resize_planes", None)  # would fail if called

    class Mine(T.ResizeShortestEdge):
        pass

    predictor = DefaultPredictor(cfg)
    predictor.prepare(BLUE.astype(np.float32))
    predictor.aug = Mine(30, 40)
    assert predictor.prepare(BLUE)["image"].shape == (3, 27, 40)
    predictor.aug = T.ResizeShortestEdge((30, 31), 40, "choice")
    predictor.prepare(BLUE)


def test_buckets_of_cuda_graphs_hold_every_resized_image(cfg):
    assert _device_images.shapes_of(T.ResizeShortestEdge(800, 1333), 32) == [
        (800, 1344),
        (1344, 800),
    ]
    assert _device_images.shapes_of(T.ResizeShortestEdge(100, 100), 1) == [(100, 100)]
    for unbounded in (T.ResizeShortestEdge(800), T.ResizeShortestEdge(0, 100), T.Resize(30)):
        with pytest.raises(ValueError, match="CUDA graphs need images of known size"):
            _device_images.shapes_of(unbounded, 32)
    with pytest.raises(ValueError, match="A ToyDetector has no CUDA graphs"):
        DefaultPredictor(cfg, cuda_graphs=True)
