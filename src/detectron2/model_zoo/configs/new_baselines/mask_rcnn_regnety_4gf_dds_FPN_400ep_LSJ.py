"""As mask_rcnn_regnety_4gf_dds_FPN_100ep_LSJ, 400 epochs."""

from .mask_rcnn_regnety_4gf_dds_FPN_100ep_LSJ import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

train.max_iter *= 4  # 400 epochs
lr_multiplier.scheduler.milestones = [step * 4 for step in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter
