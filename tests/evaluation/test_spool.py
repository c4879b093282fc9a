import numpy as np
import pytest
import torch

from detectron2.evaluation import records
from detectron2.evaluation import spool as spool_module
from detectron2.evaluation.coco_results import CocoResults, encode_masks
from detectron2.evaluation.spool import PredictionSpool
from detectron2.structures import Boxes, Instances


def detections(image_id=1, count=3):
    masks = encode_masks(np.random.default_rng(count).random((count, 4, 5)) < 0.5)
    return CocoResults.of_image(
        image_id, np.arange(count), np.linspace(0.1, 0.9, count), np.ones((count, 4)) / 3,
        masks, np.ones((count, 6)),
    )  # fmt: skip


def prediction(image_id, count=3):
    return {"image_id": image_id, "instances": detections(image_id, count)}


def same(a, b):
    if isinstance(a, dict) and "instances" in a:
        return a["image_id"] == b["image_id"] and list(a["instances"]) == list(b["instances"])
    return a == b


class TestRecords:
    @pytest.mark.parametrize(
        "value",
        [None, True, 3, 2.5, "é", b"\0\xff", [1, [2.0, "a"]], {"a": {"b": None}}, {1: "x", "$": 2}],
        ids=str,
    )  # fmt: skip
    def test_plain_values_come_back(self, value):
        assert records.decode(records.encode(value)) == value

    @pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "float64", "bool"])
    def test_arrays_come_back_and_may_be_written_to(self, dtype):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        back = records.decode(records.encode({"x": array}))["x"]
        assert back.dtype == array.dtype and np.array_equal(back, array)
        back[0] = 1

    @pytest.mark.parametrize("image_id", [7, "seven"])
    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_detections_come_back_to_the_last_bit(self, image_id, count):
        before = detections(image_id, count)
        after = records.decode(records.encode(before))
        assert list(after) == list(before)
        for name in ("scores", "boxes", "category_ids", "mask_areas", "image_ids"):
            assert getattr(after, name).dtype == getattr(before, name).dtype

    def test_proposals_come_back(self):
        proposals = Instances((4, 5), proposal_boxes=Boxes(torch.rand(2, 4)))
        proposals.objectness_logits = torch.tensor([0.5, float("nan")])
        after = records.decode(records.encode({"proposals": proposals}))["proposals"]
        assert after.image_size == (4, 5)
        assert torch.equal(after.proposal_boxes.tensor, proposals.proposal_boxes.tensor)
        torch.testing.assert_close(
            after.objectness_logits, proposals.objectness_logits, equal_nan=True
        )

    def test_what_cannot_be_stored_says_so(self):
        with pytest.raises(records.NotStorable, match="object cannot be written"):
            records.encode({"x": object()})


class TestList:
    def test_it_is_a_list(self):
        spool = PredictionSpool(None, "name")
        items = [prediction(i) for i in range(4)]
        spool.extend(items)
        assert len(spool) == 4 and same(spool[-1], items[-1])
        assert [p["image_id"] for p in spool[1:3]] == [1, 2]
        del spool[0]
        spool[0] = prediction(9)
        spool.insert(1, prediction(10))
        assert [p["image_id"] for p in spool] == [9, 10, 2, 3]

    def test_items_are_read_from_disk_once_there_are_many(self, monkeypatch):
        monkeypatch.setattr("detectron2.evaluation.spool._CACHE_BYTES", 0)
        spool = PredictionSpool(None, "name")
        items = [prediction(i) for i in range(4)]
        spool.extend(items)
        assert spool.is_large and spool[2]["instances"] is not items[2]["instances"]
        assert all(map(same, spool, items))

    @pytest.mark.parametrize("block", [1, 1000, 10**9])
    def test_items_that_share_a_block_come_back_as_they_were(self, monkeypatch, block):
        monkeypatch.setattr("detectron2.evaluation.spool._BLOCK_BYTES", block)
        spool = PredictionSpool(None, "name")
        items = [prediction(i, count) for i, count in enumerate((3, 0, 1, 2, 0, 5, 1))]
        without_masks = detections(7)
        without_masks.mask_counts = without_masks.mask_sizes = without_masks.mask_areas = None
        items.insert(4, {"image_id": 7, "instances": without_masks})
        spool.extend(items)
        assert not spool.is_large
        assert all(map(same, spool, items))

    def test_what_cannot_be_written_stays_in_memory(self):
        spool = PredictionSpool(None, "name")
        thing = object()
        spool.append({"image_id": 1, "x": thing})
        assert spool[0]["x"] is thing

    def test_a_full_disk_is_reported_and_survived(self, caplog, tmp_path):
        (tmp_path / "file").write_text("")
        spool = PredictionSpool(str(tmp_path / "file"), "name")
        spool.append(prediction(1))
        assert "stay in memory" in caplog.text and same(spool[0], prediction(1))

    def test_temporary_files_go_with_the_spool(self):
        spool = PredictionSpool(None, "name")
        spool.append(prediction(1))
        folder = spool._file.path.parent
        assert folder.exists()
        del spool
        assert not folder.exists()


class TestFiles:
    def test_two_spools_of_one_name_do_not_share_a_file(self, tmp_path):
        spools = [PredictionSpool(str(tmp_path), "name") for _ in range(2)]
        for number, spool in enumerate(spools):
            spool.begin({"model": "m"}, resume=False)
            spool.append(prediction(number))
        assert [p["image_id"] for spool in spools for p in spool] == [0, 1]
        del spool, spools
        again = [PredictionSpool(str(tmp_path), "name") for _ in range(2)]
        for spool in again:
            spool.begin({"model": "m"}, resume=True)
        assert [p["image_id"] for spool in again for p in spool] == [0, 1]

    def test_a_name_that_only_looks_the_same_is_another(self, tmp_path):
        first = PredictionSpool(str(tmp_path), "a.b")
        first.begin({"model": "m"}, resume=False)
        first.append(prediction(1))
        del first
        second = PredictionSpool(str(tmp_path), "a_b")
        second.begin({"model": "m"}, resume=True)
        assert not second.restored


class TestGoingOn:
    @staticmethod
    def begin(folder, model="m", rank=0, resume=True):
        spool_module._IN_USE.clear()  # as in a new process
        spool = PredictionSpool(str(folder), "name", rank)
        spool.begin({"model": model}, resume)
        return spool

    def test_predictions_of_a_killed_run_are_taken_up(self, tmp_path):
        first = self.begin(tmp_path)
        first.extend(prediction(i) for i in range(3))
        second = self.begin(tmp_path)
        assert second.restored == {0, 1, 2}
        second.extend(prediction(i) for i in range(5))  # what is there is passed over
        assert [p["image_id"] for p in second] == [0, 1, 2, 3, 4]
        assert all(map(same, second, map(prediction, range(5))))

    @pytest.mark.parametrize("lost", [1, 20, 60])
    def test_a_half_written_record_is_cut_off(self, tmp_path, lost):
        first = self.begin(tmp_path)
        first.extend(prediction(i) for i in range(3))
        path = first._file.path
        path.write_bytes(path.read_bytes()[:-lost])
        second = self.begin(tmp_path)
        assert second.restored == {0, 1}
        second.append(prediction(2))
        assert self.begin(tmp_path).restored == {0, 1, 2}

    def test_a_damaged_record_is_noticed(self, tmp_path):
        first = self.begin(tmp_path)
        first.extend(prediction(i) for i in range(3))
        content = bytearray(first._file.path.read_bytes())
        content[first._file.offsets[2] + 40] ^= 1
        first._file.path.write_bytes(content)
        assert self.begin(tmp_path).restored == {0}

    def test_another_model_starts_from_nothing(self, tmp_path, caplog):
        self.begin(tmp_path).append(prediction(1))
        second = self.begin(tmp_path, model="other")
        assert not second.restored and len(second) == 0
        assert "another model" in caplog.text

    def test_without_resume_the_old_file_is_overwritten(self, tmp_path):
        self.begin(tmp_path).append(prediction(1))
        second = self.begin(tmp_path, resume=False)
        second.append(prediction(2))
        assert [p["image_id"] for p in self.begin(tmp_path)] == [2]

    def test_a_file_of_something_else_is_left_out(self, tmp_path):
        (tmp_path / "name.0.predictions").write_bytes(b"something else")
        assert not self.begin(tmp_path).restored

    def test_fewer_processes_take_over_what_more_have_left(self, tmp_path):
        for rank in range(3):
            self.begin(tmp_path, rank=rank).append(prediction(rank))
        alone = self.begin(tmp_path)
        assert alone.restored == {0, 1, 2}
        alone.append(prediction(3))
        alone.adopt_left_behind(1)
        alone.without_repetitions()
        assert sorted(p["image_id"] for p in alone) == [0, 1, 2, 3]
        alone.remove_files()
        assert not tmp_path.exists() and len(list(alone)) == 4
