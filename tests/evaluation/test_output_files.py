"""Large files are written item by item."""

import io
import pickle
import tracemalloc

import numpy as np

from detectron2.evaluation.output_files import save_dict_of_lists


def test_a_dictionary_of_lists_reads_like_a_pickled_one():
    lists = {"boxes": [np.arange(8.0).reshape(2, 4), np.zeros((0, 4))], "ids": [7, "a"], "no": []}
    stream = io.BytesIO()
    save_dict_of_lists({name: iter(items) for name, items in lists.items()}, {"mode": 1}, stream)
    read = pickle.loads(stream.getvalue())
    assert list(read) == ["boxes", "ids", "no", "mode"]
    assert (read["ids"], read["no"], read["mode"]) == ([7, "a"], [], 1)
    for array, expected in zip(read["boxes"], lists["boxes"], strict=True):
        np.testing.assert_array_equal(array, expected)


def test_convention_a_dictionary_of_lists_is_never_in_memory(tmp_path):
    def arrays():
        return (np.full(100_000, float(number)) for number in range(50))  # 40 MB in all

    with open(tmp_path / "large.pkl", "wb") as stream:
        tracemalloc.start()
        save_dict_of_lists({"one": arrays(), "two": arrays()}, {}, stream)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10e6
    assert (tmp_path / "large.pkl").stat().st_size > 80e6
