import pytest
import torch
from torch.testing import assert_close

from detectron2.modeling.sampling import (
    keep_sampled_labels,
    rows_of_masks,
    subsample_images,
    subsample_labels,
)
from detectron2.structures._transfer import on_device
from host_waits import FAR, host_waits

LABELS = torch.tensor([1, 1, 1, 1, 9, 9, 9, 9, 9, 9, -1, -1])


@pytest.mark.parametrize(
    "num_samples, fraction, positives, negatives",
    [
        (8, 0.25, 2, 6),
        (8, 0.5, 4, 4),
        (100, 0.5, 4, 6),  # never more than there are
        (10, 0.25, 2, 6),  # negatives do not make up for the bound on positives
        (4, 1.0, 4, 0),
        (0, 0.5, 0, 0),
    ],
)
def test_counts(num_samples, fraction, positives, negatives):
    positive, negative = subsample_labels(LABELS, num_samples, fraction, bg_label=9)
    assert (len(positive), len(negative)) == (positives, negatives)
    assert (LABELS[positive] == 1).all()
    assert (LABELS[negative] == 9).all()
    assert len({*positive.tolist(), *negative.tolist()}) == positives + negatives


def test_every_element_can_be_chosen():
    torch.manual_seed(0)
    seen = {i for _ in range(50) for i in subsample_labels(LABELS, 2, 0.5, 9)[0].tolist()}
    assert seen == {0, 1, 2, 3}


def test_nothing_to_choose_from():
    positive, negative = subsample_labels(torch.full((3,), -1), 4, 0.5, bg_label=0)
    assert len(positive) == len(negative) == 0


@pytest.mark.parametrize(
    "num_samples, fraction", [(8, 0.25), (8, 0.5), (100, 0.5), (10, 0.25), (4, 1.0), (0, 0.5)]
)
def test_batched_sampling_takes_the_same_numbers(num_samples, fraction):
    torch.manual_seed(0)
    labels = torch.stack([LABELS[torch.randperm(len(LABELS))] for _ in range(5)])
    labels[3] = 9  # only negatives
    labels[4] = -1
    before = labels.clone()
    sampled = keep_sampled_labels(labels, num_samples, fraction, bg_label=9)
    assert (labels == before).all()
    assert ((sampled == -1) | (sampled == labels)).all()
    for row, kept in zip(labels, sampled):
        positive, negative = subsample_labels(row, num_samples, fraction, bg_label=9)
        assert (kept == 1).sum() == len(positive)
        assert (kept == 9).sum() == len(negative)


def test_batched_sampling_can_choose_every_element():
    torch.manual_seed(0)
    labels = LABELS.expand(200, -1)
    chosen = (keep_sampled_labels(labels, 2, 0.5, bg_label=9) != -1).float().mean(dim=0)
    assert_close(chosen[:4], torch.full((4,), 1 / 4), atol=0.1, rtol=0)
    assert_close(chosen[4:10], torch.full((6,), 1 / 6), atol=0.1, rtol=0)
    assert (chosen[10:] == 0).all()


@pytest.mark.parametrize(
    "num_samples, fraction", [(8, 0.25), (8, 0.5), (100, 0.5), (10, 0.25), (4, 1.0), (0, 0.5)]
)
def test_images_sampled_together_take_the_same_numbers_and_wait_once(num_samples, fraction):
    torch.manual_seed(0)
    labels = [LABELS[torch.randperm(len(LABELS))], torch.full((5,), 9), torch.full((0,), 9)]
    with host_waits() as waits:
        far = [on_device(of_image, FAR) for of_image in labels]
        chosen = subsample_images(far, num_samples, fraction, bg_label=9)
        assert len(waits) == 1
        chosen = [index.cpu() for index in chosen]
    for of_image, index in zip(labels, chosen, strict=True):
        positive, negative = subsample_labels(of_image, num_samples, fraction, bg_label=9)
        classes = of_image[index].tolist()
        assert classes == [1] * len(positive) + [9] * len(negative)
        assert len(set(index.tolist())) == len(index)


def test_images_sampled_together_have_every_element_in_random_order():
    torch.manual_seed(0)
    with host_waits():
        far = [on_device(LABELS, FAR)] * 200
        chosen = [index.tolist() for index in subsample_images(far, 2, 0.5, bg_label=9)]
    assert {index[0] for index in chosen} == {0, 1, 2, 3}
    assert {index[1] for index in chosen} == {4, 5, 6, 7, 8, 9}
    of_all = [index[1] for index in chosen]
    assert_close(
        torch.tensor(of_all).bincount()[4:] / 200, torch.full((6,), 1 / 6), atol=0.1, rtol=0
    )


def test_rows_of_masks_are_those_of_nonzero_and_one_wait_on_a_device():
    masks = [torch.rand(n, generator=torch.Generator().manual_seed(n)) > 0.6 for n in (7, 0, 40)]
    expected = [mask.nonzero()[:, 0].tolist() for mask in masks]
    assert [rows.tolist() for rows in rows_of_masks(masks)] == expected
    with host_waits() as waits:
        far = rows_of_masks([on_device(mask, FAR) for mask in masks])
        assert len(waits) == 1
        assert [rows.tolist() for rows in far] == expected
