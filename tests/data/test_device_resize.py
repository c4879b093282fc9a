"""Resizing on the model's device gives Pillow's bits."""

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data.transforms._bilinear_torch import resize_planes, upload
from detectron2.data.transforms._bilinear_weights import rows_come_first

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def with_pillow(image, height, width):
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def on_device(image, height, width, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    planes = upload(image if image.ndim == 3 else image[:, :, None], torch.device(device))
    resized = resize_planes(planes.permute(2, 0, 1), height, width)
    return resized.permute(1, 2, 0).reshape(height, width, *image.shape[2:]).cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "colour"])
@pytest.mark.parametrize("seed", range(30))
def test_equals_pillow_at_random_sizes(seed, channels, device):
    random = np.random.default_rng(seed)
    height, width, new_height, new_width = random.integers(1, 90, size=4).tolist()
    if not rows_come_first(height, width, new_height, new_width):
        height, new_height = new_height, height  # taller instead of much flatter
    image = random.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    actual = on_device(image, new_height, new_width, device)
    assert np.array_equal(actual, with_pillow(image, new_height, new_width))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "size, new_size",
    [((480, 640), (800, 1067)), ((600, 800), (200, 267)), ((50, 60), (50, 31)), ((9, 7), (9, 7))],
)
@pytest.mark.parametrize("value", [0, 255, None])
def test_equals_pillow_at_sizes_of_cameras_and_at_both_ends_of_the_range(
    size, new_size, value, device
):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    if value is not None:
        image[:] = value
    assert np.array_equal(on_device(image, *new_size, device), with_pillow(image, *new_size))


def test_an_array_that_cannot_be_written_to_is_uploaded_without_a_warning():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    image.setflags(write=False)
    assert np.array_equal(upload(image, torch.device("cpu")).numpy(), image)


def test_nothing_on_the_device_is_kept_for_the_next_image(monkeypatch):
    made = []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *a, **k: made.append(x) or to(x, *a, **k))
    planes = torch.zeros(1, 8, 8, dtype=torch.uint8)
    counts = []
    for _ in range(2):
        made.clear()
        resize_planes(planes, 12, 12)
        counts.append(sum(x.shape == (2, 12) for x in made))
    # Pixels and weights of both axes, copied on the stream of the image.
    assert counts == [4, 4]
