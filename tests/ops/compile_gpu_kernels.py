"""Compile every Triton kernel for GPUs that are not here: `python compile_gpu_kernels.py sm90 hip`.

`--one-of-each` leaves it at the first of the lines below about each kernel.

The interpreter accepts programs that the compiler refuses. This runs the compiler down to
machine code for an NVIDIA or an AMD target, which needs no GPU. It also prints the registers of a
thread, and how many bytes of them did not find room and spill to memory.
"""

import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm75": GPUTarget("cuda", 75, 32),  # T4
    "sm80": GPUTarget("cuda", 80, 32),  # A100
    "sm90": GPUTarget("cuda", 90, 32),  # H100, H200
    "sm120": GPUTarget("cuda", 120, 32),  # RTX 50
    "hip": GPUTarget("hip", "gfx942", 64),  # MI300
}

MAPS = [f"data{level}" for level in range(4)]
ROI_ALIGN = {
    **dict.fromkeys(MAPS, "*fp32"), **{f"scale{level}": "fp32" for level in range(4)},
    "pooled": "*fp32", "rois": "*fp32", "levels": "*i64",
    "OFFSET": 0.5, "MIN_SIDE": 0.0, "RATIO": 0, "ROWS": 7, "COLUMNS": 7, "LAST": True,
    "REAL": tl.float32, "BACKWARD": False, "MANY": True,
    "ALL": True,
}  # fmt: skip
NMS = {
    "boxes": "*fp32", "classes": "*i64", "members": "*i64", "bits": "*i32", "threshold": "fp32",
}  # fmt: skip
REDUCE = {
    "members": "*i64", "bits": "*i32", "kept": "*i32", "WORDS": 256, "AT_ONCE": 32,
}  # fmt: skip
IOU = {"boxes1": "*fp32", "boxes2": "*fp32", "output": "*fp16"}
DOUBLE_IOU = {
    **IOU, "boxes1": "*fp64", "boxes2": "*fp64", "output": "*fp64", "num_warps": 8,
}  # fmt: skip
PASTE = {"masks": "*fp32", "boxes": "*fp32", "output": "*u8", "threshold": "fp32"}
ROTATED = {
    "data": "*fp32", "pooled": "*fp32", "images": "*i64", "boxes": "*fp32", "RATIO": 0, "ROWS": 7,
    "COLUMNS": 7, "LAST": True, "REAL": tl.float32, "BACKWARD": False,
}  # fmt: skip
DOUBLE_ROTATED = {**ROTATED, "data": "*fp64", "boxes": "*fp64", "REAL": tl.float64}
ROTATED_IOU = {"first": "*fp64", "second": "*fp64", "output": "*fp32"}
ROTATED_NMS = {
    "shapes": "*fp64", "classes": "*i64", "members": "*i64", "bits": "*i32",
    "threshold": "*fp32",
}  # fmt: skip
DEFORM = {
    "cells": "*fp32", "offset": "*fp32", "mask": "*fp32", "columns": "*fp32", "first": "i64",
    "of_cells": "*fp32", "of_offset": "*fp32", "of_mask": "*fp32",
    "GROUPS": 1, "OFFSET_GROUPS": 1, "TAPS": 9, "KERNEL_COLUMNS": 3, "MASK": True,
    "REAL": tl.float32,
}  # fmt: skip
HALF_DEFORM = {**DEFORM, "cells": "*bf16", "columns": "*bf16", "MASK": False, "GROUPS": 2}
DOUBLE = {**DEFORM, "cells": "*fp64", "of_cells": "*fp64", "REAL": tl.float64, "PLACES": 16}
FOCAL = {
    "logits": "*bf16", "labels": "*i64", "output": "*fp32", "grad": "*fp32", "positive": "fp32",
    "negative": "fp32", "gamma": "fp32", "SQUARE": True, "BACKWARD": False,
    "enable_fp_fusion": True,
}  # fmt: skip
FOCAL_BACKWARD = {**FOCAL, "output": "*bf16", "SQUARE": False, "BACKWARD": True}
MATCHER = {
    "quality": "*fp32", "thresholds": "*fp32", "labels": "*i8", "matches": "*i64",
    "match_labels": "*i8", "tops": "*fp32", "INTERVALS": 3, "LOW_QUALITY": True,
}  # fmt: skip
PICK = {
    "boxes": "*fp32", "groups": "*i64", "usable": "*i1", "order": "*i64", "picked": "*i64",
    "counts": "*i64", "threshold": "fp32", "DENSE": False, "SHARED": False, "CHUNK": 4096,
    "PLACES": 1024, "num_warps": 16,
}  # fmt: skip
PICK_PAIRS = {**PICK, "DENSE": True, "CHUNK": 1024, "PLACES": 128, "num_warps": 4}
DECODE = {
    "deltas": "*fp32", "proposals": "*fp32", "scores": "*fp32", "usable": "*i1", "sizes": "*i64",
    "corners": "*fp32", "table": "*fp32", "flags": "*i1", "weight_x": "fp32", "weight_y": "fp32",
    "weight_w": "fp32", "weight_h": "fp32", "clamp": "fp32", "threshold": "fp32", "ON_GPU": True,
}  # fmt: skip

# Arguments that Triton is told to be divisible by 16, if they are; so are all addresses.
DIVISIBLE = ("count", "pixels", "channels")

# Module, kernel, and its arguments: a type, or the value of a constant. Others are constants of the
# module, such as BLOCK, or else integers.
KERNELS = [
    ("roi_align", "visit_samples", ROI_ALIGN),
    ("roi_align", "visit_samples", {**ROI_ALIGN, "BACKWARD": True, "pooled": "*bf16"}),
    ("roi_align", "visit_samples", {**ROI_ALIGN, "LAST": False, "RATIO": 2, "MIN_SIDE": 1.0}),
    ("roi_align", "visit_samples", {**ROI_ALIGN, "MANY": False, "image0": "i64"}),
    ("roi_align", "visit_samples", {**ROI_ALIGN, "image2": "i64", "BACKWARD": True}),
    (
        "roi_align",
        "visit_samples",
        {**ROI_ALIGN, **dict.fromkeys(MAPS, "*fp64"), "REAL": tl.float64},
    ),
    ("nms", "overlap_word", {**NMS, "CLASSES": True}),
    ("nms", "overlap_word", {**NMS, "CLASSES": False}),
    ("nms", "reduce_words", {**REDUCE, "WORDS": 4096, "AT_ONCE": 8, "num_warps": 16}),
    ("nms", "reduce_words", {**REDUCE, "WORDS": 1024, "AT_ONCE": 16, "num_warps": 8}),
    ("nms", "reduce_words", REDUCE),
    ("box_iou", "iou_tile", {**IOU, "REAL": tl.float32}),
    ("box_iou", "iou_tile", {**DOUBLE_IOU, "REAL": tl.float64}),
    ("paste_masks", "paste_block", {**PASTE, "SOFT": False}),
    ("paste_masks", "paste_block", {**PASTE, "SOFT": True}),
    ("box_iou_rotated", "iou_tile", ROTATED_IOU),
    ("box_iou_rotated", "iou_tile", {**ROTATED_IOU, "output": "*fp64"}),
    ("nms_rotated", "overlap_word_rotated", {**ROTATED_NMS, "CLASSES": True}),
    ("nms_rotated", "overlap_word_rotated", {**ROTATED_NMS, "CLASSES": False}),
    ("roi_align_rotated", "visit_rotated_samples", ROTATED),
    ("roi_align_rotated", "visit_rotated_samples", {**ROTATED, "BACKWARD": True, "LAST": False}),
    ("roi_align_rotated", "visit_rotated_samples", {**DOUBLE_ROTATED, "RATIO": 2}),
    ("deform_conv", "gather_taps", DEFORM),
    ("deform_conv", "gather_taps", HALF_DEFORM),
    ("deform_conv", "give_back_taps", DEFORM),
    ("deform_conv", "give_back_taps", HALF_DEFORM),
    ("deform_conv", "give_back_taps", DOUBLE),
    ("sigmoid_focal_loss", "focal_block", FOCAL),
    ("sigmoid_focal_loss", "focal_block", FOCAL_BACKWARD),
    ("matcher", "match_columns", MATCHER),
    ("matcher", "match_columns", {**MATCHER, "quality": "*fp64", "tops": "*fp64"}),
    ("matcher", "label_reached", MATCHER),
    ("nms_topk", "pick_in_order", PICK),
    ("nms_topk", "pick_in_order", PICK_PAIRS),
    ("nms_topk", "pick_in_order", {**PICK_PAIRS, "SHARED": True}),
    ("detect_boxes", "decode_row", DECODE),
]


def compile_kernel(module, name, arguments, target):
    kernel = getattr(importlib.import_module(f"detectron2.ops.{module}.gpu"), name)
    signature, constants = {}, {}
    known = kernel.fn.__globals__
    for position, argument in enumerate(kernel.arg_names):
        value = arguments.get(argument, known.get(argument, "i32"))
        is_type = isinstance(value, str)
        signature[argument] = value if is_type else "constexpr"
        if not is_type:
            constants[(position,)] = value
    aligned = [name for name, kind in signature.items() if kind[0] == "*" or name in DIVISIBLE]
    places = [(kernel.arg_names.index(name),) for name in aligned]
    options = {
        "enable_fp_fusion": arguments.get("enable_fp_fusion", False),
        "num_warps": arguments.get("num_warps", known.get("WARPS", 4)),
    }
    hints = dict.fromkeys(places, [["tt.divisibility", 16]])
    source = ASTSource(kernel, signature, constants, hints)
    return triton.compile(source, target=target, options=options)


def widest(ptx):
    """Bytes of the widest access of a thread to memory."""
    found = re.findall(r"(?:ld|st)\.global[\w.:]*?(?:\.v(\d))?\.\w(\d+)\b", ptx)
    return max(int(count or 1) * int(bits) // 8 for count, bits in found)


def registers(cubin):
    """Registers of a thread, and bytes of them that spill, of machine code for NVIDIA."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(file)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found, text
    return f"{found[1]} registers, {found[2]} spilled"


def registers_of_amd(assembly):
    """The same of assembly for AMD."""
    count = re.search(r"\.vgpr_count:\s+(\d+)", assembly)
    spilled = re.search(r"\.vgpr_spill_count:\s+(\d+)", assembly)
    assert count and spilled, assembly[-2000:]
    return f"{count[1]} registers, {4 * int(spilled[1])} spilled"


if __name__ == "__main__":
    names = sys.argv[1:]
    kernels = KERNELS
    if "--one-of-each" in names:
        names.remove("--one-of-each")
        kernels = list({line[:2]: line for line in reversed(KERNELS)}.values())
    for target in (TARGETS[name] for name in names):
        for module, name, arguments in kernels:
            binary = compile_kernel(module, name, arguments, target)
            if target.backend == "cuda":
                width = widest(binary.asm["ptx"])
                use = f"{registers(binary.asm['cubin'])}, {width} bytes at once"
            else:
                use = registers_of_amd(binary.asm["amdgcn"])
            warps, shared = binary.metadata.num_warps, binary.metadata.shared
            print(f"{target.arch} {module} {name}: {use}, {warps} warps, {shared} bytes shared")
