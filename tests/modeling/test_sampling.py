import pytest
import torch

from detectron2.modeling.sampling import subsample_labels

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
