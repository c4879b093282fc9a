"""Command-line options of training scripts, and what such a script does before it trains."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detectron2.config import CfgNode, LazyConfig
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng, setup_environment
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.files import atomic_write_text, require_writable_folder
from detectron2.utils.logger import setup_logger

_DDP_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters

_EXAMPLES = """Examples:

One machine, eight GPUs:
    $ {program} --num-gpus 8 --config-file cfg.yaml

Change some options of the config:
    $ {program} --config-file cfg.yaml MODEL.WEIGHTS /path/to/weights.pth SOLVER.BASE_LR 0.001

Two machines:
    (machine 0)$ {program} --machine-rank 0 --num-machines 2 --dist-url <URL> [other options]
    (machine 1)$ {program} --machine-rank 1 --num-machines 2 --dist-url <URL> [other options]
"""


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Parser with the options that training scripts share.

    Args:
        epilog: text below the help; None shows examples.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog or _EXAMPLES.format(program=sys.argv[0]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="YAML or LazyConfig file, or zoo name")
    add("--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR")
    add("--eval-only", action="store_true", help="evaluate, do not train")
    add("--num-gpus", type=int, default=1, help="processes, and GPUs, per machine")
    add("--num-machines", type=int, default=1, help="machines of the job")
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # Fixed for a user, different between users: two of them on one machine do not collide,
    # and an interrupted job is noticed when the next one wants the same port.
    user = os.getuid() if hasattr(os, "getuid") else 1
    port = 2**15 + 2**14 + user % 2**14
    add(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="where the processes meet, see detectron2.engine.launch",
    )
    add(
        "opts",
        nargs=argparse.REMAINDER,
        help="changes of the config at the end of the command: 'KEY VALUE' pairs for YAML "
        "configs, 'key=value' for LazyConfigs",
    )
    return parser


def _try_get_key(cfg: CfgNode | Mapping[str, Any], *keys: str, default: Any = None) -> Any:
    """Value of the first of several dotted keys that the config has, otherwise `default`."""
    for key in keys:
        node: Any = cfg
        for part in key.split("."):
            if not (hasattr(node, "keys") and part in node):
                break
            node = node[part]
        else:
            return node
    return default


def _highlight(code: str, filename: str) -> str:
    """`code` with terminal colours if there is a terminal and pygments, otherwise as it is."""
    if not sys.stdout.isatty():
        return code
    try:
        import pygments
        from pygments.formatters import Terminal256Formatter
        from pygments.lexers import PythonLexer, YamlLexer
    except ImportError:
        return code
    lexer = PythonLexer() if filename.endswith(".py") else YamlLexer()
    return str(pygments.highlight(code, lexer, Terminal256Formatter(style="monokai")))


def default_setup(cfg: Any, args: Any) -> None:
    """What a training script does before anything else.

    Logs to the terminal and to ``OUTPUT_DIR/log.txt``, describes the environment, writes the
    complete config to ``OUTPUT_DIR/config.yaml``, seeds the random generators and sets what
    PyTorch keeps globally (cuDNN benchmark, float32 precision).

    Args:
        cfg: a `CfgNode`, or a LazyConfig with ``train.output_dir`` and its like.
        args: parsed arguments; an empty dictionary will do.

    Raises:
        OSError: the output folder cannot be created or written to.
    """
    setup_environment()
    output_dir = _try_get_key(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir")
    rank = comm.get_rank()
    if output_dir and comm.is_main_process():
        _make_writable(output_dir)
    comm.synchronize()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    _log_config_file(logger, getattr(args, "config_file", ""))
    if output_dir and comm.is_main_process():
        _save_config(cfg, output_dir, logger)
    seed = _try_get_key(cfg, "SEED", "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = bool(
            _try_get_key(cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False)
        )
    _set_float32_precision(
        _try_get_key(cfg, "FLOAT32_PRECISION", "train.float32_precision", default="")
    )


def _make_writable(output_dir: str) -> None:
    if "://" in output_dir:
        PathManager.mkdirs(output_dir)
    else:
        require_writable_folder(
            output_dir, "name another one with OUTPUT_DIR (train.output_dir in a LazyConfig)"
        )


def _log_config_file(logger: logging.Logger, path: str) -> None:
    if not path or not PathManager.isfile(path):
        return  # a name of the zoo; the complete config is logged anyway
    with PathManager.open(path, "r") as stream:
        logger.info("Contents of args.config_file=%s:\n%s", path, _highlight(stream.read(), path))


def _save_config(cfg: Any, output_dir: str, logger: logging.Logger) -> None:
    path = os.path.join(output_dir, "config.yaml")
    if not isinstance(cfg, CfgNode):
        LazyConfig.save(cfg, path)
    else:
        logger.info("Running with full config:\n%s", _highlight(cfg.dump(), ".yaml"))
        if "://" in output_dir:
            with PathManager.open(path, "w") as stream:
                stream.write(cfg.dump())
        else:
            atomic_write_text(path, cfg.dump())
    logger.info("Full config saved to %s", path)


def _set_float32_precision(precision: str) -> None:
    if not precision or not torch.cuda.is_available():
        return
    torch.set_float32_matmul_precision(precision)
    # Convolutions have a switch of their own.
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to ``metrics.json`` and to TensorBoard's event file.

    Args:
        output_dir: folder of the files, created if absent.
        max_iter: length of the training, for the time that is left.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> Any:
    """The model wrapped for several processes; the model itself when there is only one.

    Args:
        fp16_compression: send gradients as float16, which halves the traffic.
        **kwargs: for `torch.nn.parallel.DistributedDataParallel`.
    """
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    if "device_ids" not in kwargs and device.type == "cuda":
        kwargs["device_ids"] = [device.index]  # not the local rank, where each sees one GPU only
    if "broadcast_buffers" in kwargs and "forward_sync_buffers" in _DDP_OPTIONS:
        # PyTorch 2.13 renamed it, and warns about the old name.
        kwargs["forward_sync_buffers"] = kwargs.pop("broadcast_buffers")
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

        ddp.register_comm_hook(state=None, hook=fp16_compress_hook)
    return ddp
