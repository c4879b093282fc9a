"""Every option of the yacs config with its default value.

Comments give what a name does not say: units, choices, and what other options it depends on.
Options that only one project uses are added by that project's ``add_..._config``.
"""

from __future__ import annotations

from typing import Any

from detectron2.config._versions import LATEST_VERSION
from detectron2.config.config import CfgNode as CN
from detectron2.config.model_defaults import MODEL
from detectron2.config.training_defaults import TRAINING

__all__ = ["CN"]

_Options = dict[str, Any]

# --- the data -------------------------------------------------------------------------------

_INPUT: _Options = {
    # Channel order that the model is fed with: RGB, BGR, L, or YUV-BT.601.
    "FORMAT": "BGR",
    # Training: the shorter side is resized to one of these sizes, or, with sampling "range", to a
    # size between the two given; the longer side stays below MAX_SIZE. Pixels. Size 0: no resize.
    "MIN_SIZE_TRAIN": (800,),
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MAX_SIZE_TRAIN": 1333,
    "MIN_SIZE_TEST": 800,
    "MAX_SIZE_TEST": 1333,
    # Training: decode no more of a JPEG than the resizing needs. Faster, but not the same pixels.
    "REDUCED_DECODE": False,
    # horizontal, vertical or none.
    "RANDOM_FLIP": "horizontal",
    "CROP": {
        "ENABLED": False,
        # relative_range: each side is a random share of the image, at least SIZE.
        # relative: exactly the share SIZE. absolute: SIZE in pixels.
        # absolute_range: pixels between SIZE[0] and SIZE[1].
        "TYPE": "relative_range",
        "SIZE": [0.9, 0.9],
    },
    # How masks travel through augmentation: polygon (exact, compact) or bitmask.
    "MASK_FORMAT": "polygon",
    # Augmentations that see several samples, how often each is used. COPY_PASTE needs bitmasks.
    "MOSAIC": {"PROB": 0.0, "SIZE": [640, 640]},
    "COPY_PASTE": {"PROB": 0.0},
    "MIXUP": {"PROB": 0.0},
    # Large-scale jitter instead of MIN_SIZE_TRAIN: resize by a random factor, then crop or pad
    # to a square of side SIZE.
    "JITTER": {"ENABLED": False, "SIZE": 1024, "MIN_SCALE": 0.1, "MAX_SCALE": 2.0},
}

_DATASETS: _Options = {
    # Names in DatasetCatalog. Several training datasets are concatenated.
    "TRAIN": (),
    "TEST": (),
    # Files of precomputed proposals, one per dataset, used with MODEL.LOAD_PROPOSALS.
    "PROPOSAL_FILES_TRAIN": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "PROPOSAL_FILES_TEST": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
}

_DATALOADER: _Options = {
    # Worker processes per GPU.
    "NUM_WORKERS": 4,
    # Batches hold either only landscape or only portrait images, so less of them is padding.
    "ASPECT_RATIO_GROUPING": True,
    # TrainingSampler, RepeatFactorTrainingSampler or RandomSubsetTrainingSampler.
    "SAMPLER_TRAIN": "TrainingSampler",
    # Repeat-factor sampling (LVIS paper, section 5.2): classes in a smaller share of the images
    # than the threshold are repeated; by the square root of the ratio, or by the ratio.
    "REPEAT_THRESHOLD": 0.0,
    "REPEAT_SQRT": True,
    # Drop training images without annotations.
    "FILTER_EMPTY_ANNOTATIONS": True,
    # Look at every training image and annotation before iteration 0 and report, fail, skip or fix
    # what is wrong; "" does not. The outcome is remembered until the files change.
    "CHECK": "",
    # How many training samples may turn out unreadable; None is 10 % and at least 10.
    "UNREADABLE_BUDGET": None,
}

# --- training and testing -------------------------------------------------------------------

_SOLVER: _Options = {
    # SGD, ADAM or ADAMW.
    "OPTIMIZER": "SGD",
    # Images per step over all GPUs.
    "IMS_PER_BATCH": 16,
    # Number of GPUs the schedule is meant for; with another number DefaultTrainer scales batch
    # size, learning rate and iterations. 0 never scales.
    "REFERENCE_WORLD_SIZE": 0,
    "MAX_ITER": 40000,
    "BASE_LR": 0.001,
    "BASE_LR_END": 0.0,  # where WarmupCosineLR ends
    # WarmupMultiStepLR, WarmupCosineLR or WarmupStepWithFixedGammaLR.
    "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    # Iterations at which the learning rate is multiplied by GAMMA.
    "STEPS": (30000,),
    "GAMMA": 0.1,
    "NUM_DECAYS": 3,
    # The first iterations start from BASE_LR * WARMUP_FACTOR; linear or constant.
    "WARMUP_ITERS": 1000,
    "WARMUP_FACTOR": 0.001,
    "WARMUP_METHOD": "linear",
    # Shift the schedule of WarmupStepWithFixedGammaLR behind the warm-up.
    "RESCALE_INTERVAL": False,
    # SGD.
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 0.0001,
    "WEIGHT_DECAY_NORM": 0.0,
    # Biases: None is the same decay as for weights.
    "WEIGHT_DECAY_BIAS": None,
    "BIAS_LR_FACTOR": 1.0,
    "CLIP_GRADIENTS": {
        "ENABLED": False,
        # value clips each element, norm each parameter's gradient.
        "CLIP_TYPE": "value",
        "CLIP_VALUE": 1.0,
        "NORM_TYPE": 2.0,
    },
    # Mixed precision.
    "AMP": {"ENABLED": False},
    # Iterations between two checkpoints.
    "CHECKPOINT_PERIOD": 5000,
}

_TEST: _Options = {
    # Iterations between two evaluations during training; 0 evaluates only at the end.
    "EVAL_PERIOD": 0,
    "DETECTIONS_PER_IMAGE": 100,
    # Sigmas of the keypoint similarity, one per keypoint; empty uses COCO's.
    "KEYPOINT_OKS_SIGMAS": [],
    # Rows [task, metric, expected value, tolerance] that are compared after evaluation.
    "EXPECTED_RESULTS": [],
    # Test-time augmentation: shorter sides, largest longer side (pixels), flip.
    "AUG": {
        "ENABLED": False,
        "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "MAX_SIZE": 4000,
        "FLIP": True,
    },
    # Recompute batch norm statistics over this many batches before evaluation.
    "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
}

_C = CN(
    {
        "VERSION": LATEST_VERSION,
        "MODEL": MODEL,
        "INPUT": _INPUT,
        "DATASETS": _DATASETS,
        "DATALOADER": _DATALOADER,
        "SOLVER": _SOLVER,
        "TEST": _TEST,
        "TRAINING": TRAINING,
        "OUTPUT_DIR": "./output",
        # Negative: every run is different. A seed does not make GPU kernels deterministic.
        "SEED": -1,
        # cuDNN times its algorithms first; helps when input sizes repeat.
        "CUDNN_BENCHMARK": False,
        # torch.set_float32_matmul_precision: "", highest, high or medium.
        "FLOAT32_PRECISION": "",
        # Iterations between two pictures of training data and predictions in the event files;
        # 0 draws none.
        "VIS_PERIOD": 0,
        # A number for quick experiments; no code of this library reads it.
        "GLOBAL": {"HACK": 1.0},
    }
)
