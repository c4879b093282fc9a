import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from detectron2.data import detection_utils as utils
from detectron2.data.errors import SampleError, SizeMismatchError, UnreadableImageError


def pixels(h=18, w=22):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3)).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    def write(array, name="image.png", **options):
        path = tmp_path / name
        Image.fromarray(array).save(path, **options)
        return str(path)

    return write


@pytest.mark.parametrize(
    "format, expected",
    [
        (None, pixels()),
        ("RGB", pixels()),
        ("BGR", pixels()[:, :, ::-1]),
        ("L", np.asarray(Image.fromarray(pixels()).convert("L"))[:, :, None]),
    ],
)
def test_formats(save, format, expected):
    image = utils.read_image(save(pixels()), format)
    assert image.dtype == np.uint8 and (image == expected).all()


def test_yuv_and_back(save):
    yuv = utils.read_image(save(pixels()), "YUV-BT.601")
    assert yuv.dtype == np.float64 and yuv[..., 0].min() >= 0 and yuv[..., 0].max() <= 1
    back = utils.convert_image_to_rgb(yuv, "YUV-BT.601")
    assert np.abs(back.astype(int) - pixels()).max() <= 1
    assert len(utils._M_RGB2YUV) == 3


@pytest.mark.parametrize("format", ["BGR", "L", "RGB"])
def test_images_are_converted_to_rgb_for_drawing(save, format):
    image = utils.read_image(save(pixels()), format)
    rgb = utils.convert_image_to_rgb(torch.from_numpy(image.copy()), format)
    assert rgb.shape == (18, 22, 3) and rgb.dtype == np.uint8
    if format != "L":
        assert (rgb == pixels()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_convention_exif_orientation_is_applied(save, orientation, extension):
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # a white corner, top left
    # How a camera that is held this way stores it.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = Image.fromarray(upright)
    if orientation in undo:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = utils.read_image(save(np.asarray(stored), f"image.{extension}", exif=exif), "RGB")
    assert image.shape == (16, 32, 3)
    assert image[:6, :6].min() > 200 and image[10:, 10:].max() < 50


def test_an_unreadable_exif_header_is_ignored(tmp_path, caplog):
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels()).save(path, exif=b"Exif\0\0garbage that is no TIFF header")
    assert utils.read_image(str(path), "RGB").shape == (18, 22, 3)


@pytest.mark.parametrize("dtype, limit", [(np.uint16, 65535), (np.int32, 65535)])
def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path, dtype, limit):
    ramp = np.linspace(0, limit, 256).astype(dtype).reshape(16, 16)
    path = tmp_path / ("a.png" if dtype == np.uint16 else "a.tif")
    Image.fromarray(ramp).save(path)
    image = utils.read_image(str(path), "BGR")
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert (image[..., 0].ravel() == np.arange(256)).all()
    assert utils.read_image(str(path)).max() == limit  # None keeps what the file holds


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_kind_of_image_becomes_bgr(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(pixels()).convert(mode).save(path)
    image = utils.read_image(str(path), "BGR")
    assert image.shape == (18, 22, 3) and image.dtype == np.uint8


def test_a_palette_with_transparency_gives_no_warning(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pixels()).convert("P").save(path, transparency=bytes(range(256)))
    assert utils.read_image(str(path), "RGB").shape == (18, 22, 3)


def test_an_image_of_one_pixel(save):
    assert utils.read_image(save(pixels(1, 1)), "BGR").shape == (1, 1, 3)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*gone\.jpg' does not exist"):
        utils.read_image(str(tmp_path / "gone.jpg"))


@pytest.mark.parametrize("keep", [0, 10, 300])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_a_truncated_file_is_named_with_the_reason(tmp_path, extension, keep):
    stream = io.BytesIO()
    Image.fromarray(pixels(60, 60)).save(stream, format=extension.replace("jpg", "jpeg"))
    path = tmp_path / f"cut.{extension}"
    path.write_bytes(stream.getvalue()[:keep])
    with pytest.raises(UnreadableImageError, match=rf"cut\.{extension}' cannot be decoded \(.+\)"):
        utils.read_image(str(path), "BGR")


def test_a_text_file_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(
        UnreadableImageError, match=r"a\.jpg.*it holds no picture of a known format"
    ):
        utils.read_image(str(tmp_path / "a.jpg"))


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, save):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        utils.read_image(save(pixels(40, 40)))


def test_convention_unreadable_images_are_os_errors_and_value_errors():
    assert issubclass(UnreadableImageError, OSError)
    assert issubclass(SizeMismatchError, SampleError) and issubclass(SampleError, ValueError)


def test_the_size_in_the_record_is_checked_or_filled_in():
    record = {}
    utils.check_image_size(record, pixels())
    assert record == {"height": 18, "width": 22}
    utils.check_image_size({"height": 18}, pixels())
    with pytest.raises(SizeMismatchError, match=r"'x\.jpg' is 22 x 18 .* says 22 x 19"):
        utils.check_image_size({"height": 19, "width": 22, "file_name": "x.jpg"}, pixels())


def test_a_swapped_size_hints_at_exif():
    with pytest.raises(SizeMismatchError, match="EXIF"):
        utils.check_image_size({"height": 22, "width": 18}, pixels())


def test_a_png_with_text_chunks_is_read(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 1000)
    Image.fromarray(pixels()).save(tmp_path / "a.png", pnginfo=info)
    assert (utils.read_image(str(tmp_path / "a.png"), "RGB") == pixels()).all()


def test_scaling_down_to_eight_bits_is_logged(tmp_path, caplog):
    from detectron2.utils import logger as logging_helpers

    logging_helpers._times_seen.clear()
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        utils.read_image(str(tmp_path / "a.png"), "L")
    assert "16-bit" in caplog.text
