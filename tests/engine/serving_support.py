"""A server in a thread, a model whose right answer anybody can compute, and a client."""

import contextlib
import http.client
import io
import json
import threading
import time

import numpy as np
import torch
from PIL import Image

from detectron2.data.catalog import Metadata
from detectron2.engine.serving import ServedModel
from detectron2.structures import Boxes, Instances

CLASSES = ["left", "right"]


def find_bright(inputs, score=0.9):
    """The box around the bright pixels; class 1 if it lies in the right half."""
    height, width = inputs["height"], inputs["width"]
    rows, columns = (inputs["image"].amin(dim=0) > 200).nonzero().unbind(dim=1)
    found = Instances((height, width))
    if not len(rows):
        return {
            "instances": Instances(
                (height, width),
                pred_boxes=Boxes(torch.zeros(0, 4)),
                scores=torch.zeros(0),
                pred_classes=torch.zeros(0, dtype=torch.int64),
            )
        }
    box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, rows, columns] = True
    found.pred_boxes, found.scores = Boxes(box[None]), torch.tensor([score])
    found.pred_classes = torch.tensor([int(box[0] + box[2] > width)])
    found.pred_masks = mask
    return {"instances": found}


def prepare(pixels):
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
    return {"image": tensor, "height": pixels.shape[0], "width": pixels.shape[1]}


def bright_model(run=None):
    """Finds white boxes; `run` may replace what runs a batch."""
    return ServedModel(
        "bright",
        Metadata(name="bright", thing_classes=CLASSES),
        CLASSES,
        "BGR",
        prepare,
        lambda inputs: tuple(inputs["image"].shape),
        run or (lambda inputs: [find_bright(each) for each in inputs]),
    )


def picture_of(box, size=(60, 80)):
    """(H, W, 3) grey image with a white box (x0, y0, x1, y1)."""
    pixels = np.full((*size, 3), 60, dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return pixels


def encoded(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@contextlib.contextmanager
def serving(model, limits=None, **options):
    """(host, port) of a server that runs in a thread while the block does."""
    from detectron2.engine.serving.app import create_app
    from detectron2.engine.serving.limits import ServeLimits
    from detectron2.engine.serving.server import make_server, run_server

    limits = limits or ServeLimits()
    server = make_server(create_app(model, limits, **options), limits, "127.0.0.1", 0)
    ready, addresses = threading.Event(), []

    def on_ready(address):
        addresses.append(address)
        ready.set()

    thread = threading.Thread(target=run_server, args=(server, on_ready))
    thread.start()
    assert ready.wait(20)
    host, _, port = addresses[0].removeprefix("http://").rpartition(":")
    try:
        yield host, int(port)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = dict(response.getheaders())
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


def ask(address, path="/predict", body=None, method=None, timeout=30, **headers):
    """Answer to one request on a connection of its own."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, names)
        return Answer(connection.getresponse())
    finally:
        connection.close()


BOUNDARY = "b0undary"


def form(image, /, **fields):
    """(body, headers) of a form with a file and text fields."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    if image is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"'
        parts.append(head.encode() + b"\r\nContent-Type: image/png\r\n\r\n" + image + b"\r\n")
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return body, {"content_type": f"multipart/form-data; boundary={BOUNDARY}"}


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
