import os
import stat

import pytest

from detectron2.utils.files import (
    atomic_open,
    atomic_write_bytes,
    atomic_write_text,
    require_writable_folder,
)


def test_text_and_bytes_arrive(tmp_path):
    assert atomic_write_text(tmp_path / "new" / "a.txt", "één").read_text("utf-8") == "één"
    assert atomic_write_bytes(tmp_path / "b", b"12").read_bytes() == b"12"
    assert atomic_write_bytes(tmp_path / "c", lambda f: f.write(b"34")).read_bytes() == b"34"


def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = atomic_write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_open(path, "w") as stream:
        stream.write("half of the new")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_written_file_has_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    written = atomic_write_text(tmp_path / "atomic", "")
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    require_writable_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_exists_but_takes_no_file_is_refused(tmp_path, monkeypatch):
    # Permission bits alone would not stop root.
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(PermissionError, match=r"'.*' cannot be written to \(Permission denied\)"):
        require_writable_folder(tmp_path)
