"""ImageNet classification: a model, data and transforms of torchvision under the same trainer.

It shows that nothing in the training loop is about detection: a model returns a dict of losses in
training, and an evaluator reads what it returns in inference. Needs torchvision and ImageNet::

    detectron2 train Misc/torchvision_imagenet_R_50.py dataloader.train.dataset.root=/data/imagenet
"""

import torch
import torchvision
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import OmegaConf
from torch import nn
from torchvision import transforms as T
from torchvision.models.resnet import Bottleneck, ResNet

from detectron2.config import LazyCall as L
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.evaluation import DatasetEvaluator
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm


def build_data_loader(dataset, batch_size, num_workers, training=True):
    """Batches of (images, labels), endless and shuffled in training."""
    sampler = (TrainingSampler if training else InferenceSampler)(len(dataset))
    return torch.utils.data.DataLoader(
        dataset, batch_size, sampler=sampler, num_workers=num_workers, pin_memory=True
    )


class ClassificationNet(nn.Module):
    """Cross entropy of a classifier in training, its logits in inference."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        images, labels = batch
        device = next(self.parameters()).device
        logits = self.model(images.to(device))
        if not self.training:
            return logits
        return nn.functional.cross_entropy(logits, labels.to(device))


class ClassificationAcc(DatasetEvaluator):
    """Top-1 accuracy."""

    def reset(self):
        self.correct = self.seen = 0

    def process(self, inputs, outputs):
        labels = inputs[1]
        self.correct += (outputs.argmax(dim=1).cpu() == labels).sum().item()
        self.seen += len(labels)

    def evaluate(self):
        counts = comm.all_gather((self.correct, self.seen))
        return {"accuracy": sum(c for c, _ in counts) / sum(s for _, s in counts)}


def loader(split, root, geometry, training):
    """Loader of one split; 256 images over 8 GPUs."""
    pixels = [T.ToTensor(), L(T.Normalize)(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))]
    return L(build_data_loader)(
        dataset=L(torchvision.datasets.ImageNet)(
            root=root, split=split, transform=L(T.Compose)(transforms=geometry + pixels)
        ),
        batch_size=256 // 8,
        num_workers=4,
        training=training,
    )


dataloader = OmegaConf.create()
dataloader.train = loader(
    "train",
    "/path/to/imagenet",
    [L(T.RandomResizedCrop)(size=224), L(T.RandomHorizontalFlip)()],
    True,
)
dataloader.test = loader(
    "val", "${...train.dataset.root}", [L(T.Resize)(size=256), L(T.CenterCrop)(size=224)], False
)
dataloader.evaluator = L(ClassificationAcc)()

# A finished module may stand where a description could.
model = L(ClassificationNet)(
    model=ResNet(block=Bottleneck, layers=[3, 4, 6, 3], zero_init_residual=True)
)

optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(), lr=0.1, momentum=0.9, weight_decay=1e-4
)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01, 0.001], milestones=[30, 60, 90, 100]
    ),
    warmup_length=1 / 100,
    warmup_factor=0.1,
)

train = get_config("common/train.py").train
train.init_checkpoint = None
train.max_iter = 100 * 1281167 // 256  # 100 epochs
