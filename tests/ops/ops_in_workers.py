"""Data loader workers that call ops: `python ops_in_workers.py fork` (or spawn).

In a process of its own, which has no threads and locks of other tests. While the workers start,
another thread of the parent is inside the kernels.
"""

import sys
import threading

import torch
from ops_contract import generator, random_boxes, random_rotated_boxes, with_images
from torch.utils.data import DataLoader, Dataset

from detectron2 import ops


def results(index: int) -> list[float]:
    """A number from each kernel that shares the pool of threads."""
    random = generator("worker", index)
    features = torch.randn(1, 32, 40, 40, generator=random)
    boxes, rotated = random_boxes(120, 160, seed=index), random_rotated_boxes(60, 160, seed=index)
    rois, rotated_rois = with_images(boxes, 1), with_images(rotated, 1)
    offset = torch.randn(1, 18, 40, 40, generator=random)
    weight = torch.randn(8, 32, 3, 3, generator=random)
    iou = ops.box_iou(boxes, boxes)
    found = [
        ops.roi_align(features, rois, 7, 0.25, 2, True),
        ops.roi_align_rotated(features, rotated_rois, 5, 0.25, 2),
        ops.deform_conv(features, offset, weight, padding=1),
        ops.paste_masks(torch.rand(9, 14, 14, generator=random), boxes[:9], (90, 90), 0.5),
        ops.box_iou_rotated(rotated, rotated),
        iou,
        ops.matcher(iou, [0.3, 0.7], [0, -1, 1], True)[1],
        ops.sigmoid_focal_loss(iou, torch.arange(120)),
        ops.nms(boxes, boxes[:, 0], 0.5),
        ops.batched_nms(boxes, boxes[:, 0], torch.arange(120) % 7, 0.5),
        ops.nms_rotated(rotated, rotated[:, 0], 0.5),
    ]
    return [round(one.double().abs().sum().item(), 3) for one in found]


class Results(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        # A worker has one PyTorch thread; let the kernels use their own pool all the same.
        torch.get_num_threads = lambda: 3
        return torch.tensor(results(index), dtype=torch.float64)


def main(method: str) -> None:
    torch.set_num_threads(3)
    expected = [results(index) for index in range(len(Results()))]
    done = threading.Event()

    def keep_busy():
        while not done.is_set():
            results(0)

    workers = 2 if method == "fork" else 1  # a spawned one has to import everything
    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        loader = DataLoader(
            Results(),
            num_workers=workers,
            batch_size=None,
            multiprocessing_context=method,
            timeout=200,
        )
        assert [one.tolist() for one in loader] == expected
    finally:
        done.set()
        busy.join()
    print("same results")


if __name__ == "__main__":
    main(sys.argv[1])
