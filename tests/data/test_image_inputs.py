import pytest
from PIL import Image

from detectron2.data.image_inputs import find_images, unique_names


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "deep/c.webp", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_folder_is_searched_with_its_subfolders(folder):
    assert [i.name for i in find_images([str(folder)])] == ["a.JPG", "b.png", "deep/c.webp"]


def test_globs_and_files_keep_the_order_of_the_inputs(folder):
    images = find_images([str(folder / "b.png"), str(folder / "*.JPG")])
    assert [i.name for i in images] == ["b.png", "a.JPG"]


def test_results_of_equal_names_do_not_collide(folder):
    images = find_images([str(folder / "b.png"), str(folder / "b.png")])
    assert [i.name for i in images] == ["b.png", "b_2.png"]
    assert unique_names(["a.jpg", "a.jpg", "a_2.jpg"]) == ["a.jpg", "a_2.jpg", "a_2_2.jpg"]


def test_a_file_that_was_named_is_taken_whatever_its_suffix(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "picture", format="PNG")
    assert len(find_images([str(tmp_path / "picture")])) == 1


def test_address_is_not_fetched_before_it_is_read():
    (image,) = find_images(["https://example.invalid/photos/cat.jpg?size=large"])
    assert image.name == "cat.jpg" and image.path.startswith("https://")


@pytest.mark.parametrize(
    "text, message",
    [("missing.jpg", "no image, no folder"), ("*.txt", "matches no image"), ("empty", "holds no")],
)
def test_inputs_without_images_are_errors_that_name_them(folder, text, message):
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        find_images([str(folder / text)])
