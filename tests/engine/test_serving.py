"""The server as a client meets it: right answers to good requests, sentences to bad ones."""

import base64
import json
import socket
import struct
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from hotcoco import mask as rle_codec
from PIL import Image
from serving_support import (
    ask,
    bright_model,
    encoded,
    find_bright,
    form,
    picture_of,
    serving,
    wait_until,
)

from detectron2.engine.serving import ServeLimits
from detectron2.engine.serving.app import create_app
from detectron2.engine.serving.command import require_serving
from detectron2.engine.serving.server import make_server, run_server

BOX = (10, 20, 50, 40)
PHOTO = encoded(picture_of(BOX))
PNG = {"content_type": "image/png"}
JSON = {"content_type": "application/json"}


@pytest.fixture(scope="module")
def address():
    limits = ServeLimits(max_bytes=200_000, max_pixels=1_000_000, read_timeout=0.4)
    with serving(bright_model(), limits) as address:
        yield address


def as_json(**content):
    return json.dumps(content).encode()


IN_BASE64 = base64.b64encode(PHOTO).decode()
WAYS = {
    "form": form(PHOTO),
    "json": (as_json(image=IN_BASE64), JSON),
    "data address": (as_json(image=f"data:image/png;base64,{IN_BASE64}"), JSON),
    "file": (PHOTO, PNG),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_image_gets_its_detections(way, address):
    body, headers = WAYS[way]
    answer = ask(address, body=body, **headers)
    assert answer.status == 200
    (found,) = answer.json.pop("instances")
    mask = found.pop("segmentation")
    assert found == {
        "category": "left",
        "category_id": 0,
        "bbox": [10.0, 20.0, 40.0, 20.0],
        "score": pytest.approx(0.9),
    }
    assert (answer.json["height"], answer.json["width"]) == (60, 80)
    assert np.array_equal(rle_codec.decode(mask), picture_of(BOX)[:, :, 0] == 255)


def test_an_image_answer_is_the_picture_with_the_detections(address):
    import io

    for arguments, kind in (
        ({"path": "/predict?format=png"}, "PNG"),
        ({"path": "/predict?format=image"}, "JPEG"),
        ({"accept": "image/png, */*"}, "PNG"),
        ({"accept": "image/*"}, "JPEG"),
    ):
        answer = ask(address, body=PHOTO, **PNG, **arguments)
        assert answer.status == 200 and answer.headers["content-type"] == f"image/{kind.lower()}"
        with Image.open(io.BytesIO(answer.body)) as drawn:
            assert drawn.format == kind and drawn.size == (80, 60)
            assert not np.array_equal(np.asarray(drawn), picture_of(BOX))


def test_the_lowest_score_can_be_asked_for(address):
    for path, body, headers in (
        ("/predict?min_score=0.95", PHOTO, PNG),
        ("/predict", *form(PHOTO, min_score="0.95")),
        ("/predict", as_json(image=IN_BASE64, min_score=0.95), JSON),
    ):
        answer = ask(address, path, body, **headers)
        assert answer.status == 200 and answer.json["instances"] == []


def test_images_are_turned_upright_and_other_modes_are_read(address):
    import io

    grey = Image.fromarray(picture_of(BOX)[:, :, 0])
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(picture_of(BOX)).rotate(180).save(turned, "PNG", exif=exif)
    grey_file = io.BytesIO()
    grey.save(grey_file, "PNG")
    for content in (turned.getvalue(), grey_file.getvalue()):
        (found,) = ask(address, body=content, **PNG).json["instances"]
        assert found["bbox"] == [10.0, 20.0, 40.0, 20.0]


def bomb(side):
    """PNG that says it has side x side pixels."""

    def chunk(kind, content):
        data = kind + content
        return struct.pack(">I", len(content)) + data + struct.pack(">I", zlib.crc32(data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BAD = {
    "empty file": (b"", PNG, 400, "has no bytes"),
    "no image": (b"GIF89a is how it begins", PNG, 400, "cannot be decoded"),
    "text": (b"hello", PNG, 400, "none of BMP, GIF"),
    "truncated": (PHOTO[: len(PHOTO) // 2], PNG, 400, "cannot be decoded"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PNG, 400, "none of"),
    "bomb": (bomb(5_000), PNG, 413, "5000 x 5000 pixels; this server takes at most 1000000"),
    "larger bomb": (bomb(60_000), PNG, 413, "at most 1000000"),
    "a line": (encoded(np.zeros((1, 900, 3), np.uint8)), PNG, 400, "at most 200 times"),
    "type": (PHOTO, {"content_type": "text/plain"}, 415, "'text/plain'; send multipart"),
    "no type": (PHOTO, {}, 415, "content type is ''"),
    "form without boundary": (PHOTO, {"content_type": "multipart/form-data"}, 400, "malformed"),
    "form of nonsense": (b"nonsense", form(PHOTO)[1], 400, "malformed"),
    "form cut off": (form(PHOTO)[0][:150], form(PHOTO)[1], 400, "no field 'image'"),
    "form without image": (*form(None, other="1"), 400, "no field 'image'; it has 'other'"),
    "form with text": (*form(None, image="words"), 400, "send it as a file"),
    "no JSON": (b"{", JSON, 400, "is no JSON"),
    "deep JSON": (b"[" * 100_000, JSON, 400, "is no JSON"),
    "JSON list": (b"[]", JSON, 400, "is a list; send an object"),
    "JSON without image": (b"{}", JSON, 400, "it has none at all"),
    "JSON address": (as_json(image="http://127.0.0.1/a.png"), JSON, 400, "is not base64"),
    "JSON number": (as_json(image=5), JSON, 400, "addresses are not read"),
    "score": (as_json(image=IN_BASE64, min_score="high"), JSON, 400, "min_score is 'high'"),
    "score above 1": (*form(PHOTO, min_score="7"), 400, "number from 0 to 1"),
    "score NaN": (*form(PHOTO, min_score="nan"), 400, "number from 0 to 1"),
    "format": (*form(PHOTO, format="tiff"), 400, "format is 'tiff'; use one of json, image"),
    "too long": (bytes(300_000), PNG, 413, "more than 200000 bytes"),
    "far too long": (bytes(3_000_000), PNG, 413, "more than 200000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_a_sentence(name, address):
    body, headers, status, sentence = BAD[name]
    answer = ask(address, body=body, **headers)
    assert (answer.status, sentence in answer.error) == (status, True), answer.body


def test_a_body_of_unknown_length_is_bounded_too(address):
    answer = ask(address, body=iter([bytes(100_000)] * 4), **PNG)
    assert answer.status == 413


def test_unknown_addresses_and_methods_get_a_sentence(address):
    assert (ask(address, "/nothing").status, ask(address, "/predict").status) == (404, 405)
    assert ask(address, "/nothing").error == "Not Found: GET /nothing"


def raw(address, content, wait=5.0):
    """What comes back for bytes, before the connection is closed."""
    with socket.create_connection(address, timeout=wait) as connection:
        connection.sendall(content)
        received = b""
        while part := connection.recv(65536):
            received += part
            if b"\r\n\r\n" in received and b"keep-alive" not in received.lower():
                break
        return received


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"not http at all\r\n\r\n", b"400 Bad Request"),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\n", b"408 Request Timeout"),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nabc", b"408 Request"),
        (b"", b""),
    ],
    ids=["nonsense", "half a head", "half a body", "silence"],
)
def test_connections_without_a_whole_request_end(content, expected, address):
    start = time.monotonic()
    received = raw(address, content)
    assert received.startswith(b"HTTP/1.1 " + expected if expected else b"")
    assert time.monotonic() - start < 3


def test_a_refused_upload_that_goes_on_slowly_is_cut(address):
    # The application has answered; nothing but the server's own limit ends the connection.
    content = b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n"
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(content)
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        start = time.monotonic()
        while connection_is_open(connection) and time.monotonic() - start < 5:
            time.sleep(0.1)
        assert time.monotonic() - start < 3


def connection_is_open(connection):
    try:
        connection.sendall(b"x")
        connection.settimeout(0.01)
        return connection.recv(10) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def test_health_and_metrics_say_what_goes_on(address):
    assert ask(address, "/health").json["status"] == "ok"
    assert ask(address, "/health").json["model"] == "bright"
    before = metrics(address)
    ask(address, body=PHOTO, **PNG)
    ask(address, body=b"", **PNG)
    after = metrics(address)
    for code, more in (("200", 1), ("400", 1)):
        name = f'detectron2_requests_total{{path="/predict",code="{code}"}}'
        assert after[name] == before.get(name, 0) + more
    count = "detectron2_request_seconds_count"
    assert after[count] == before.get(count, 0) + 2
    assert after["detectron2_batch_size_count"] == before["detectron2_batch_size_count"] + 1
    assert after['detectron2_request_seconds_bucket{le="+Inf"}'] == after[count]
    assert after["detectron2_queue_length"] == after["detectron2_requests_in_progress"] == 0
    if sys.platform == "linux":
        assert after["process_resident_memory_bytes"] > 1e7


def metrics(address):
    answer = ask(address, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_schema_describes_predictions(address):
    schema = ask(address, "/openapi.json").json["paths"]["/predict"]["post"]
    assert set(schema["requestBody"]["content"]) == {
        "multipart/form-data", "application/json", "image/*"
    }  # fmt: skip
    assert {"200", "400", "408", "413", "415", "503", "504"} <= set(schema["responses"])


# ---- what happens when there is too much to do


class Gate:
    """A model that waits until it is let through."""

    def __init__(self):
        self.open = threading.Event()
        self.batches = []

    def __call__(self, inputs):
        assert self.open.wait(20)
        self.batches.append(len(inputs))
        return [find_bright(each) for each in inputs]


def in_threads(count, function):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(function())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def test_a_full_queue_says_when_to_come_again():
    gate = Gate()
    limits = ServeLimits(max_batch=2, max_queue=3, max_wait=0)
    with serving(bright_model(gate), limits) as address:
        threads, answers = in_threads(1, lambda: ask(address, body=PHOTO, **PNG))
        wait_until(lambda: metrics(address)["detectron2_requests_in_progress"] == 1)
        wait_until(lambda: metrics(address)["detectron2_queue_length"] == 0)
        more, _ = in_threads(3, lambda: answers.append(ask(address, body=PHOTO, **PNG)))
        wait_until(lambda: metrics(address)["detectron2_queue_length"] == 3)
        refused = ask(address, body=PHOTO, **PNG)
        assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
        assert "3 images are waiting" in refused.error
        gate.open.set()
        for thread in threads + more:
            thread.join(20)
        assert [answer.status for answer in answers if answer] == [200] * 4
        assert gate.batches == [1, 2, 1]


def test_too_many_uploads_are_refused_before_they_are_read():
    with serving(bright_model(), ServeLimits(max_requests=1)) as address:
        with socket.create_connection(address) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: metrics(address)["detectron2_requests_in_progress"] == 1)
            refused = ask(address, body=PHOTO, **PNG)
        assert refused.status == 503 and refused.headers["retry-after"] == "1"
        # The slow client has gone, which gives its place back.
        wait_until(lambda: metrics(address)["detectron2_requests_in_progress"] == 0)
        assert ask(address, body=PHOTO, **PNG).status == 200


def test_an_answer_that_takes_too_long_is_given_up():
    gate = Gate()
    with serving(bright_model(gate), ServeLimits(answer_timeout=0.3, max_wait=0)) as address:
        threads, answers = in_threads(2, lambda: ask(address, body=PHOTO, **PNG))
        for thread in threads:
            thread.join(20)
        assert [answer.status for answer in answers] == [504, 504]
        assert "no answer within 0.3 s" in answers[0].error
        gate.open.set()
        assert ask(address, body=PHOTO, **PNG).status == 200
        # Of the two, at most the one that was running has been run.
        wait_until(lambda: sum(gate.batches) >= 2)
        assert sum(gate.batches) <= 3


def test_one_image_that_the_model_cannot_take_fails_alone():
    def run(inputs):
        if any(each["height"] == 61 for each in inputs):
            raise RuntimeError("no such height")
        return [find_bright(each) for each in inputs]

    bad = encoded(picture_of(BOX, (61, 80)))
    with serving(bright_model(run)) as address:
        failed = ask(address, body=bad, **PNG)
        assert failed.status == 500 and "its log says why" in failed.error
        assert ask(address, body=PHOTO, **PNG).status == 200
        assert ask(address, "/health").status == 200


def test_a_stopping_server_answers_what_is_in_flight():
    gate = Gate()
    answers = []
    with serving(bright_model(gate)) as address:
        thread = threading.Thread(target=lambda: answers.append(ask(address, body=PHOTO, **PNG)))
        thread.start()
        wait_until(lambda: metrics(address)["detectron2_requests_in_progress"] == 1)
        threading.Timer(0.3, gate.open.set).start()
    thread.join(20)
    assert answers[0].status == 200 and len(answers[0].json["instances"]) == 1


def test_what_was_sent_just_before_a_server_stops_is_answered():
    limits = ServeLimits()
    server = make_server(create_app(bright_model(), limits), limits, "127.0.0.1", 0)
    addresses, clients = [], []
    head = (
        b"POST /predict HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: image/png\r\n"
    )

    async def send_and_stop():
        # Nothing here waits, so the server has not even accepted these connections.
        host, _, port = addresses[0].removeprefix("http://").rpartition(":")
        for _ in range(3):
            clients.append(socket.create_connection((host, int(port))))
            clients[-1].sendall(head + f"Content-Length: {len(PHOTO)}\r\n\r\n".encode() + PHOTO)

    server.main_loop = send_and_stop
    run_server(server, addresses.append)
    for client in clients:
        with client:
            assert client.makefile("rb").read(12) == b"HTTP/1.1 200"


def test_limits_are_checked():
    with pytest.raises(ValueError, match="limit max_batch is 0; it has to be above 0"):
        ServeLimits(max_batch=0)


def test_a_missing_package_is_named_with_the_extra_for_serving(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r'\'uvicorn\': pip install "detectron2\[serve\]"'):
        require_serving()
