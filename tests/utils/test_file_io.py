"""Downloads from a server on this machine, the zoo's addresses, object stores."""

import hashlib
import http.server
import os
import threading
from pathlib import Path

import fsspec
import pytest
from iopath.common.file_io import PathManager as PathManagerClass

from detectron2.utils import _download, file_io
from detectron2.utils._download import DownloadError, download, hash_in_name
from detectron2.utils.file_io import ObjectStoreHandler, PathHandler, PathManager

CONTENT = bytes(range(256)) * 5000
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; the attributes say how it misbehaves."""

    etag: str | None = '"v1"'
    break_after: int | None = None
    status: int | None = None
    failures = 0

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/folder/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if server.failures:
            server.failures -= 1
            self.send_error(503)
            return
        if server.status:
            self.send_error(server.status)
            return
        start = 0
        if wanted and self.headers.get("If-Range") == server.etag:
            start = int(wanted[len("bytes=") : -1])
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if server.break_after is not None:
            body, server.break_after = body[: server.break_after], None
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(_download.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_file_is_downloaded_once_and_kept_where_iopath_keeps_it(server, tmp_path):
    path = PathManager.get_local_path(server.url + "a.bin")
    assert path == str(tmp_path / "cache" / "folder" / "a.bin")
    PathManager.get_local_path(server.url + "a.bin")
    with PathManager.open(server.url + "a.bin", "rb") as file:
        assert file.read() == CONTENT
    assert len(server.ranges) == 1
    PathManager.get_local_path(server.url + "a.bin", force=True)
    assert len(server.ranges) == 2


def test_file_found_in_the_cache_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "put_by_hand.bin").write_bytes(b"1")
    with PathManager.open("http://127.0.0.1:1/x/put_by_hand.bin", "rb") as file:
        assert file.read() == b"1"


def test_addresses_that_differ_in_their_query_are_different_files(server):
    paths = {PathManager.get_local_path(f"{server.url}a.bin?key={k}") for k in (1, 2)}
    assert len(paths) == 2 and all(p.endswith(".bin") for p in paths)


def test_broken_connection_is_resumed(server, tmp_path):
    server.break_after = 300_000
    download(server.url + "a.bin", str(tmp_path / "a.bin"), SHA[:6])
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["a.bin"]


def test_interrupted_program_goes_on_where_it_stopped(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    (tmp_path / "a.bin.part.tag").write_text('"v1"')
    download(server.url + "a.bin", str(tmp_path / "a.bin"))
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ['"an older file"', ""])
def test_file_that_may_have_changed_is_fetched_anew(server, tmp_path, tag):
    (tmp_path / "a.bin.part").write_bytes(b"something else")
    (tmp_path / "a.bin.part.tag").write_text(tag)
    download(server.url + "a.bin", str(tmp_path / "a.bin"))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_part_that_is_complete_already_is_no_trap(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.tag").write_text('"v1"')
    download(server.url + "a.bin", str(tmp_path / "a.bin"))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_passing_server_error_is_tried_again(server, tmp_path):
    server.failures = 2
    download(server.url + "a.bin", str(tmp_path / "a.bin"))
    assert len(server.ranges) == 3


@pytest.mark.parametrize("expected", [SHA[:6], MD5[:6], MD5])
def test_hash_in_the_name_may_be_sha256_or_md5(server, tmp_path, expected):
    download(server.url + "a.bin", str(tmp_path / "a.bin"), expected)
    assert (tmp_path / "a.bin").exists()


def test_convention_wrong_content_is_never_kept(server, tmp_path):
    with pytest.raises(DownloadError, match="not the hash abcdef of its name"):
        download(server.url + "a.bin", str(tmp_path / "a.bin"), "abcdef")
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


def test_name_without_a_hash_of_the_file_is_believed_to_the_server(server, tmp_path, caplog):
    server.etag = f'"{MD5}"'
    download(server.url + "a.bin", str(tmp_path / "a.bin"), "abcdef")
    assert "does not carry the hash" in caplog.text


@pytest.mark.parametrize(
    ("make_url", "reason"),
    [
        (lambda s: s.url, "the server answers 404"),
        (lambda s: "http://127.0.0.1:1/", "refused"),
    ],
)
def test_failure_is_one_sentence_with_address_place_and_way_out(server, tmp_path, make_url, reason):
    server.status = 404
    url = make_url(server) + "model_final_a54504.pkl"
    with pytest.raises(DownloadError) as error:
        PathManager.get_local_path(url)
    message = str(error.value)
    assert url in message and reason in message and "--random-weights" in message
    assert os.path.join(str(tmp_path / "cache"), "") in message
    assert not PathManager.isfile(url)


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("model_final_a54504.pkl", "a54504"),
        ("coco_2017_val_box_proposals_ee0dad.pkl", "ee0dad"),
        ("model_final_c18079783c55a94968edc28b7101c5f0.pkl", "c18079783c55a94968edc28b7101c5f0"),
        ("R-50.pkl", ""),
        ("model_final.pth", ""),
    ],
)
def test_hash_is_found_in_names_of_the_zoo(name, digits):
    assert hash_in_name(name) == digits


def test_zoo_address_is_a_name_on_its_server(server, monkeypatch):
    monkeypatch.setattr(file_io, "ZOO_ADDRESS", server.url)
    with PathManager.open(f"detectron2://sub/w_{SHA[:6]}.pkl", "rb") as file:
        assert file.read() == CONTENT
    assert PathManager.isfile(f"detectron2://sub/w_{SHA[:6]}.pkl")
    with pytest.raises(DownloadError, match="not the hash"):
        PathManager.get_local_path("detectron2://sub/w_abcdef.pkl")


def test_path_manager_is_iopaths():
    assert isinstance(PathManager, PathManagerClass)
    assert PathHandler.__module__ == "iopath.common.file_io"


def test_object_store_is_read_and_written(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    manager = PathManagerClass()
    manager.register_handler(ObjectStoreHandler(["memory://"]))
    with manager.open("memory://bucket/a.txt", "w") as file:
        file.write("one")
    assert manager.exists("memory://bucket/a.txt") and manager.isfile("memory://bucket/a.txt")
    assert manager.ls("memory://bucket") == ["a.txt"] and manager.isdir("memory://bucket")
    local = manager.get_local_path("memory://bucket/a.txt")
    assert Path(local).read_text() == "one"
    (tmp_path / "b.txt").write_text("two")
    assert not manager.copy_from_local(str(tmp_path / "b.txt"), "memory://bucket/a.txt")
    manager.copy_from_local(str(tmp_path / "b.txt"), "memory://bucket/a.txt", overwrite=True)
    assert Path(manager.get_local_path("memory://bucket/a.txt")).read_text() == "two"
    manager.rm("memory://bucket/a.txt")
    assert not manager.exists("memory://bucket/a.txt")
    fsspec.filesystem("memory").store.clear()


def test_missing_driver_of_a_store_is_named(monkeypatch):
    def fail(path):
        raise ImportError("no driver")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(ImportError, match="pip install s3fs"):
        PathManager.open("s3://bucket/a")
