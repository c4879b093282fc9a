"""Images of any number of channels and any depth, from the file to the detections."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.check import inspect_image
from detectron2.data.detection_utils import convert_image_to_rgb, read_image
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.engine.quickstart.pipeline import CONFIG_NAME
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng

RNG = np.random.default_rng(0)


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


def grey16(height=6, width=8):
    return RNG.integers(0, 65536, (height, width), dtype=np.uint16)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "CMYK"])
def test_convention_channels_are_those_of_the_file(tmp_path, mode):
    channels = len(mode)
    pixels = RNG.integers(0, 256, (6, 8, channels), dtype=np.uint8)
    image = Image.fromarray(
        pixels[:, :, 0] if channels == 1 else pixels, mode="CMYK" if mode == "CMYK" else None
    )
    path = save(tmp_path / "image.tif", image)
    got = read_image(path, "CHANNELS")
    assert got.dtype == np.uint8 and np.array_equal(got, pixels)


def test_sixteen_bits_stay(tmp_path):
    pixels = grey16()
    got = read_image(save(tmp_path / "grey.png", Image.fromarray(pixels)), "CHANNELS")
    assert got.dtype == np.float32 and np.array_equal(got[:, :, 0], pixels)


def test_pages_of_a_tiff_are_channels(tmp_path):
    pages = [grey16() for _ in range(5)]
    first, *rest = [Image.fromarray(page) for page in pages]
    path = save(tmp_path / "stack.tif", first, save_all=True, append_images=rest)
    got = read_image(path, "CHANNELS")
    assert np.array_equal(got, np.stack(pages, axis=2).astype(np.float32))


def test_a_palette_is_its_colours(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).quantize(8)
    got = read_image(save(tmp_path / "palette.png", image), "CHANNELS")
    assert np.array_equal(got, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "bool"])
def test_arrays_are_images(tmp_path, dtype):
    array = RNG.integers(0, 2, (6, 8, 7)).astype(dtype)
    np.save(tmp_path / "array.npy", array)
    path = str(tmp_path / "array.npy")
    got = read_image(path, "CHANNELS")
    assert got.dtype == (np.uint8 if dtype in ("uint8", "bool") else np.float32)
    assert np.array_equal(got, array)
    assert inspect_image(path).upright_size == (8, 6)
    with pytest.raises(ValueError, match=r"array\.npy' is an array.*'CHANNELS'"):
        read_image(path, "BGR")


@pytest.mark.parametrize("array", [np.zeros(5), np.array(["text"]), np.zeros((1, 2, 3, 4))])
def test_arrays_that_are_no_images_are_refused(tmp_path, array):
    np.save(tmp_path / "array.npy", array)
    with pytest.raises(OSError, match=r"array\.npy' cannot be decoded"):
        read_image(str(tmp_path / "array.npy"), "CHANNELS")
    assert inspect_image(str(tmp_path / "array.npy")).fault == "unreadable-image"


def test_arrays_with_objects_do_not_run_code(tmp_path):
    np.save(tmp_path / "array.npy", np.array([[print]]), allow_pickle=True)
    with pytest.raises(OSError, match="cannot be decoded"):
        read_image(str(tmp_path / "array.npy"), "CHANNELS")


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_channels_can_be_drawn(channels):
    for high in np.float32([4000, 3967.73, 3991.117, 0.7]):  # 255 / range is rarely exact
        image = RNG.random((6, 8, channels)).astype(np.float32) * high
        rgb = convert_image_to_rgb(image, "CHANNELS")
        assert rgb.shape == (6, 8, 3) and rgb.dtype == np.uint8 and rgb.max() == 255


# -- the first convolution


class Stem(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(channels, 1, 1), persistent=False)
        self.conv = nn.Conv2d(channels, 4, 3)
        self.next = nn.Conv2d(4, 3, 1)
        self.last = nn.Conv2d(3, 2, 1)  # three channels as well, but no colours


@pytest.mark.parametrize("channels", [1, 2, 4, 9])
def test_the_first_convolution_is_adapted_and_said_so(tmp_path, caplog, channels):
    colours, other = Stem(3), Stem(channels)
    torch.save({"model": colours.state_dict()}, tmp_path / "colours.pth")
    with caplog.at_level(logging.INFO, "detectron2"):
        DetectionCheckpointer(other).load(str(tmp_path / "colours.pth"))
    assert f"conv.weight (3 -> {channels} channels)" in caplog.text
    assert torch.equal(other.last.weight, colours.last.weight)
    # An image with all channels equal gives what it gave in colours.
    grey = torch.rand(1, 1, 8, 8)
    if channels != 2:
        want = colours.conv(grey.expand(1, 3, 8, 8))
        torch.testing.assert_close(other.conv(grey.expand(1, channels, 8, 8)), want)


def test_models_of_colours_are_left_alone(tmp_path, caplog):
    torch.save({"model": Stem(4).state_dict()}, tmp_path / "four.pth")
    with caplog.at_level(logging.INFO, "detectron2"):
        DetectionCheckpointer(Stem(3)).load(str(tmp_path / "four.pth"))
    assert "adapted" not in caplog.text and "other shape" in caplog.text


# -- everything together


def five_channel_dataset(folder):
    """Bright squares that only the fifth, 16-bit channel shows."""
    records = []
    for i in range(8):
        image = RNG.integers(0, 2000, (48, 64, 5), dtype=np.uint16)
        x, y = (int(v) for v in RNG.integers(4, 24, 2))
        image[y : y + 20, x : x + 20, 4] += 40000
        np.save(folder / f"{i}.npy", image)
        box = {"bbox": [x, y, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        size = {"height": 48, "width": 64, "image_id": i}
        records.append({"file_name": str(folder / f"{i}.npy"), "annotations": [box], **size})
    return records


@pytest.fixture
def config(tmp_path):
    records = five_channel_dataset(tmp_path)
    DatasetCatalog.register("five_channels", lambda: records)
    MetadataCatalog.get("five_channels").thing_classes = ["square"]
    cfg = model_zoo.get_config(CONFIG_NAME)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("five_channels",), ()
    cfg.INPUT.FORMAT = "CHANNELS"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48,), 48
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [1000.0] * 5, [600.0] * 4 + [17000.0]
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, 2, ()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    yield cfg
    DatasetCatalog.remove("five_channels")
    MetadataCatalog.remove("five_channels")


def test_five_sixteen_bit_channels_train_from_weights_of_colours_and_predict(
    config, tmp_path, caplog
):
    seed_all_rng(0)
    colours = config.clone()
    colours.MODEL.PIXEL_MEAN, colours.MODEL.PIXEL_STD = [100.0] * 3, [1.0] * 3
    DetectionCheckpointer(build_model(colours), str(tmp_path)).save("colours")
    config.MODEL.WEIGHTS = str(tmp_path / "colours.pth")
    sample = DatasetMapper(config, True)(DatasetCatalog.get("five_channels")[0])
    assert sample["image"].shape[0] == 5 and sample["image"].dtype == torch.float32
    assert sample["image"].max() > 40000
    trainer = DefaultTrainer(config)
    with caplog.at_level(logging.WARNING, "detectron2"):
        trainer.checkpointer.logger.propagate = True
        logging.getLogger("detectron2").propagate = True
        trainer.resume_or_load(resume=False)
    assert "stem.conv1.weight (3 -> 5 channels)" in caplog.text
    stem = trainer.model.backbone.bottom_up.stem.conv1
    before = stem.weight.clone()
    trainer.train()
    assert stem.weight.shape[1] == 5 and not torch.equal(stem.weight, before)
    config.MODEL.WEIGHTS = str(tmp_path / "out" / "model_final.pth")
    predictor = DefaultPredictor(config)
    image = read_image(str(tmp_path / "0.npy"), predictor.image_format)
    instances = predictor(image)["instances"]
    assert instances.image_size == (48, 64)
    assert torch.isfinite(instances.pred_boxes.tensor).all()
