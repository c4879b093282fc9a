import pytest
import torch

from detectron2.modeling.matcher import Matcher

# 3 ground-truth elements, 4 predictions
QUALITY = torch.tensor([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])


def test_labels_follow_the_interval_of_the_best_quality():
    matches, labels = Matcher([0.3, 0.5], [0, -1, 1])(QUALITY)
    assert matches.tolist() == [1, 1, 2, 0]
    assert labels.tolist() == [-1, 1, 0, 1]
    assert (matches.dtype, labels.dtype) == (torch.int64, torch.int8)


def test_a_bound_belongs_to_the_interval_above():
    quality = torch.tensor([[0.2999, 0.3, 0.6999, 0.7]])
    _, labels = Matcher([0.3, 0.7], [0, -1, 1])(quality)
    assert labels.tolist() == [0, -1, -1, 1]


def test_low_quality_matches_keep_their_own_best_element():
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(QUALITY)
    # Prediction 1 is the best of elements 1 and 2, prediction 3 of element 0 and, tied, of 2.
    assert labels.tolist() == [-1, 1, 0, 1]
    assert matches.tolist() == [1, 1, 2, 0]


def test_quirk_an_element_that_nothing_overlaps_makes_everything_positive():
    matches, labels = Matcher([0.5], [0, 1], allow_low_quality_matches=True)(torch.zeros(2, 3))
    assert labels.tolist() == [1, 1, 1]
    assert matches.tolist() == [0, 0, 0]


def test_without_ground_truth_every_label_is_the_lowest():
    matches, labels = Matcher([0.3, 0.7], [-1, 0, 1], allow_low_quality_matches=True)(
        torch.zeros(0, 5)
    )
    assert labels.tolist() == [-1] * 5
    assert matches.tolist() == [0] * 5


def test_without_predictions_nothing_is_matched():
    matches, labels = Matcher([0.5], [0, 1], allow_low_quality_matches=True)(torch.zeros(2, 0))
    assert len(matches) == len(labels) == 0


def test_convention_a_subclass_may_choose_its_low_quality_matches():
    class FirstOnly(Matcher):
        def set_low_quality_matches_(self, match_labels, match_quality_matrix):
            match_labels[0] = 1

    matches, labels = FirstOnly([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(QUALITY)
    assert labels.tolist() == [1, -1, 0, -1]
    assert matches.tolist() == [1, 1, 2, 0]


@pytest.mark.parametrize(
    "thresholds, labels, words",
    [
        ([0.7, 0.3], [0, -1, 1], "must be positive and ascend"),
        ([0.0, 0.3], [0, -1, 1], "must be positive and ascend"),
        ([0.3], [0, -1, 1], "make 2 intervals"),
        ([0.3], [0, 2], "are -1"),
    ],
)
def test_bad_intervals_are_refused(thresholds, labels, words):
    with pytest.raises(AssertionError, match=words):
        Matcher(thresholds, labels)
