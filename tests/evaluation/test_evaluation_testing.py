import logging

import pytest

from detectron2.config import get_cfg
from detectron2.evaluation import print_csv_format, verify_results
from detectron2.evaluation.testing import flatten_results_dict


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 38.5, 0.2]]
    return cfg


class TestVerifyResults:
    def test_a_metric_within_its_tolerance_passes(self, cfg):
        assert verify_results(cfg, {"bbox": {"AP": 38.69}}) is True

    def test_nothing_expected_passes(self):
        assert verify_results(get_cfg(), {"bbox": {"AP": 1.0}}) is True

    @pytest.mark.parametrize(
        "results",
        [
            {"bbox": {"AP": 38.8}},
            {"bbox": {"AP": float("nan")}},
            {"bbox": {"AP50": 38.5}},
            {"segm": {"AP": 38.5}},
            {},
        ],
    )
    def test_convention_anything_else_ends_the_program_with_status_one(self, cfg, results, caplog):
        with pytest.raises(SystemExit) as stopped:
            verify_results(cfg, results)
        assert stopped.value.code == 1
        assert "Result verification failed" in caplog.text
        assert "['bbox', 'AP', 38.5, 0.2]" in caplog.text


class TestPrintCsv:
    def test_main_metrics_are_on_lines_to_copy(self, caplog):
        caplog.set_level(logging.INFO)
        print_csv_format({"bbox": {"AP": 38.51234, "AP50": 60.0, "AP-cat": 99.0}})
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [
            "copypaste: Task: bbox",
            "copypaste: AP,AP50",
            "copypaste: 38.5123,60.0000",
        ]

    def test_a_plain_number_is_a_line(self, caplog):
        caplog.set_level(logging.INFO)
        print_csv_format({"accuracy": 0.5})
        assert "copypaste: accuracy=0.5" in caplog.text

    def test_what_is_no_dictionary_is_refused(self):
        with pytest.raises(AssertionError, match="dictionary"):
            print_csv_format([("AP", 1.0)])
        print_csv_format([])  # nothing to print


def test_flattening_joins_names_at_any_depth():
    nested = {"a": {"b": 1.5, "c": {"d": 2.5}}, "e": 3.0}
    assert flatten_results_dict(nested) == {"a/b": 1.5, "a/c/d": 2.5, "e": 3.0}
