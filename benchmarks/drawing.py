"""How long does it take to draw 100 instances with masks on a 1080p picture?

    python benchmarks/drawing.py [--instances 100] [--repeats 5]

Ours against a plain drawing of the same things with matplotlib: picture, outlined masks, boxes and
labels, rendered to an array. Needs matplotlib (and OpenCV for the outlines that matplotlib draws).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

HEIGHT, WIDTH = 1080, 1920


class Metadata(SimpleNamespace):
    def get(self, key: str, default: object = None) -> object:
        return getattr(self, key, default)


METADATA = Metadata(thing_classes=[f"category {i}" for i in range(80)])


def make_instances(count: int) -> tuple[np.ndarray, Instances]:
    """A noisy picture and `count` wavy blobs from 40 to 500 pixels in size."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3)).repeat(8, 0).repeat(8, 1)
    instances = Instances((HEIGHT, WIDTH))
    boxes, masks = [], torch.zeros(count, HEIGHT, WIDTH, dtype=torch.bool)
    for i in range(count):
        w, h = rng.uniform(40, 500, 2)
        x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
        boxes.append([x, y, x + w, y + h])
        yy, xx = np.mgrid[int(y) : int(y + h), int(x) : int(x + w)]
        dx, dy = (xx - x - w / 2) / (w / 2), (yy - y - h / 2) / (h / 2)
        radius = 0.8 + 0.15 * np.sin(7 * np.arctan2(dy, dx))
        masks[i, int(y) : int(y + h), int(x) : int(x + w)] = torch.from_numpy(
            np.hypot(dx, dy) < radius
        )
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.pred_masks = masks
    instances.scores = torch.linspace(0.99, 0.5, count)
    instances.pred_classes = torch.arange(count) % 80
    return picture.astype(np.uint8), instances


def draw_ours(picture: np.ndarray, instances: Instances, scale: float = 1.0) -> np.ndarray:
    visualizer = Visualizer(picture, METADATA, scale=scale, instance_mode=ColorMode.IMAGE)
    return visualizer.draw_instance_predictions(instances).get_image()


def draw_matplotlib(picture: np.ndarray, instances: Instances) -> np.ndarray:
    import cv2
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Polygon, Rectangle

    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, frameon=False)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(picture, extent=(0, WIDTH, HEIGHT, 0), interpolation="nearest")
    rng = np.random.default_rng(1)
    masks = instances.pred_masks.numpy().astype(np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(instances.pred_boxes.tensor.tolist()):
        color = tuple(rng.uniform(0, 1, 3))
        contours, _ = cv2.findContours(masks[i], cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            points = contour.reshape(-1, 2) + 0.5
            axes.add_patch(Polygon(points, facecolor=(*color, 0.5), edgecolor=color))
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, alpha=0.5, lw=4)
        )
        name = METADATA.thing_classes[int(instances.pred_classes[i])]
        axes.text(
            x0,
            y0,
            f"{name} {instances.scores[i] * 100:.0f}%",
            size=12,
            color=color,
            verticalalignment="top",
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
        )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def best_time(draw: Callable[[], np.ndarray], repeats: int) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""
    draw()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        draw()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", help="write our picture here")
    arguments = parser.parse_args()
    picture, instances = make_instances(arguments.instances)
    ours = best_time(lambda: draw_ours(picture, instances), arguments.repeats)
    larger = best_time(lambda: draw_ours(picture, instances, 1.2), arguments.repeats)
    theirs = best_time(lambda: draw_matplotlib(picture, instances), max(arguments.repeats // 2, 1))
    print(f"{arguments.instances} instances with masks, boxes and labels on {WIDTH} x {HEIGHT}:")
    print(f"  ours              {ours * 1000:8.1f} ms   {theirs / ours:5.1f} x")
    print(f"  ours, scale 1.2   {larger * 1000:8.1f} ms   {theirs / larger:5.1f} x")
    print(f"  plain matplotlib  {theirs * 1000:8.1f} ms")
    if arguments.save:
        from PIL import Image

        Image.fromarray(draw_ours(picture, instances)).save(arguments.save)


if __name__ == "__main__":
    main()
