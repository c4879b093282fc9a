import pytest
import torch

from detectron2.structures import ImageList


@pytest.fixture
def images(device):
    sizes = ((10, 14), (12, 9), (7, 7))
    return [torch.full((3, *size), float(i + 1), device=device) for i, size in enumerate(sizes)]


def test_images_are_padded_at_the_right_and_at_the_bottom(images):
    batch = ImageList.from_tensors(images, pad_value=-1)
    assert batch.tensor.shape == (3, 3, 12, 14)
    assert batch.image_sizes == [(10, 14), (12, 9), (7, 7)]
    for image, padded, original in zip(batch, batch.tensor, images):
        assert torch.equal(image, original)
        height, width = original.shape[-2:]
        assert (padded[:, height:] == -1).all() and (padded[:, :, width:] == -1).all()


@pytest.mark.parametrize(
    ("divisibility", "constraints", "size"),
    [
        (0, None, (12, 14)),
        (1, None, (12, 14)),
        (2, None, (12, 14)),
        (8, None, (16, 16)),
        (8, {"size_divisibility": 5}, (15, 15)),
        (0, {"square_size": 20}, (20, 20)),
        (0, {"square_size": 0, "size_divisibility": 7}, (14, 14)),
        (0, {"square_size": 20, "size_divisibility": 8}, (24, 24)),
    ],
)
def test_the_size_obeys_the_constraints(images, divisibility, constraints, size):
    batch = ImageList.from_tensors(images, divisibility, padding_constraints=constraints)
    assert batch.tensor.shape == (3, 3, *size)
    # The second image alone is 12 x 9; only its width can shrink the result.
    alone = ImageList.from_tensors(images[1:2], divisibility, padding_constraints=constraints)
    assert alone.tensor.shape[2] == size[0] and alone.tensor.shape[3] <= size[1]


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_any_leading_dimensions(leading):
    batch = ImageList.from_tensors([torch.ones(*leading, 5, 6), torch.ones(*leading, 4, 7)], 4)
    assert batch.tensor.shape == (2, *leading, 8, 8)
    assert batch[1].shape == (*leading, 4, 7)


def test_dtype_is_kept():
    batch = ImageList.from_tensors([torch.ones(3, 2, 2, dtype=torch.uint8)] * 2, 4)
    assert batch.tensor.dtype == torch.uint8
    assert batch.to(torch.float16).tensor.dtype == torch.float16


def test_the_batch_has_its_own_memory():
    image = torch.zeros(3, 8, 8)
    ImageList.from_tensors([image], 8).tensor.add_(1)
    assert not image.any()


def test_convention_gradients_reach_the_images():
    # What saliency maps and adversarial images are made with.
    images = [torch.ones(3, 4, 5, requires_grad=True), torch.ones(3, 2, 6, requires_grad=True)]
    ImageList.from_tensors(images, 8).tensor.sum().backward()
    assert all(torch.equal(image.grad, torch.ones_like(image)) for image in images)


def test_what_cannot_be_batched_is_refused():
    with pytest.raises(ValueError, match="no images"):
        ImageList.from_tensors([])
    with pytest.raises(ValueError, match=r"\(1, 4, 4\)\] cannot form one batch"):
        ImageList.from_tensors([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)])
    with pytest.raises(ValueError, match="30 x 20 pixels does not fit into the square of 24"):
        ImageList.from_tensors([torch.zeros(3, 30, 20)], padding_constraints={"square_size": 24})
