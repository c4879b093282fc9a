"""As mask_rcnn_R_101_FPN_100ep_LSJ, 200 epochs."""

from .mask_rcnn_R_101_FPN_100ep_LSJ import dataloader, lr_multiplier, model, optimizer, train

train.max_iter *= 2  # 200 epochs
lr_multiplier.scheduler.milestones = [step * 2 for step in lr_multiplier.scheduler.milestones]
lr_multiplier.scheduler.num_updates = train.max_iter
