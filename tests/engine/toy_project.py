"""A detector and a dataset small enough to train in a blink."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, BoxMode, Instances


class ToyDetector(nn.Module):
    """Learns the mean colour; finds one box, whose score is the mean of the first channel."""

    def __init__(self, cfg=None, dropout=0.5):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch):
        colours = torch.stack([x["image"].float().mean(dim=(1, 2)) for x in batch]) / 255
        if not self.training:
            return [self.detect(x, colour) for x, colour in zip(batch, colours, strict=True)]
        found = self.dropout(self.norm(self.layer(colours)))
        return {"loss_colour": (found - colours).square().mean()}

    def detect(self, x, colour):
        found = Instances((x["height"], x["width"]))
        found.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, x["width"], x["height"]]]))
        found.scores = colour[:1]
        found.pred_classes = torch.zeros(1, dtype=torch.long)
        return {"instances": found}


META_ARCH_REGISTRY.register(ToyDetector)


class CountImages(DatasetEvaluator):
    """How many images there are, and the mean score."""

    def reset(self):
        self.scores = []

    def process(self, inputs, outputs):
        self.scores += [output["instances"].scores.item() for output in outputs]

    def evaluate(self):
        return {"toy": {"images": len(self.scores), "score": float(np.mean(self.scores))}}


class ToyTrainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return CountImages()


def register_dataset(folder, name, images=4):
    """Pictures of one colour each; returns the name."""
    folder.mkdir(exist_ok=True)
    records = []
    for i in range(images):
        path = folder / f"{i}.png"
        Image.fromarray(np.full((24, 32, 3), (40 * i, 100, 200), dtype=np.uint8)).save(path)
        box = {"bbox": [2, 2, 20, 20], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        size = {"height": 24, "width": 32, "image_id": i}
        records.append({"file_name": str(path), "annotations": [box], **size})
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["thing"]
    return name


def forget_dataset(name):
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def toy_config(output, dataset, **solver):
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ToyDetector"
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = (dataset,)
    cfg.DATASETS.TEST = (dataset,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (24,)
    cfg.INPUT.MIN_SIZE_TEST = 24
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.STEPS = (4,)
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.BASE_LR = 0.1
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(output)
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def colours_forever():
    """Batches that depend on NumPy's global generator, as a loader without workers does."""
    while True:
        value = np.random.randint(0, 255, size=(2, 3, 1, 1))
        yield [{"image": torch.from_numpy(image).expand(3, 4, 4)} for image in value]


def colours_once():
    return [[{"image": torch.full((3, 4, 4), 51.0 * i), "height": 4, "width": 4}] for i in range(3)]


LAZY_CONFIG = """
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch.optim import SGD

from detectron2.config import LazyCall as L
from detectron2.solver import get_default_optimizer_params
from toy_project import CountImages, ToyDetector, colours_forever, colours_once

model = L(ToyDetector)(dropout=0.0)
optimizer = L(SGD)(
    params=L(get_default_optimizer_params)(base_lr=0.05), lr=0.05, momentum=0.9
)
lr_multiplier = L(ConstantParamScheduler)(value=0.5)
dataloader = dict(
    train=L(colours_forever)(), test=L(colours_once)(), evaluator=L(CountImages)()
)
train = dict(
    output_dir="OUTPUT", max_iter=5, init_checkpoint="", device="cpu", eval_period=0,
    log_period=2, checkpointer=dict(period=2, max_to_keep=1), amp=dict(enabled=False), seed=1,
)
"""
