"""Which architecture can be exported to which format: what the tests check and the docs show."""

from small_models import ARCHITECTURES

FORMATS = {
    "torchscript": ".ts",
    "onnx": ".onnx",
    "openvino": ".xml",
    "pt2": ".pt2",
    "executorch": ".pte",
}
NO_ROTATED = "no: ONNX has no rotated NMS and ROIAlign"
NO_UNKNOWN_BATCH = "no: torch.export cannot follow batch norm of an unknown number of boxes"
EXCEPTIONS = {
    ("Faster R-CNN C4", "pt2"): NO_UNKNOWN_BATCH,
    ("Mask R-CNN C4", "pt2"): NO_UNKNOWN_BATCH,
    ("Rotated Faster R-CNN", "onnx"): NO_ROTATED,
    ("Rotated Faster R-CNN", "openvino"): NO_ROTATED,
    ("Rotated Faster R-CNN", "executorch"): "no: there are no fixed shapes of rotated ROIAlign",
}


# Compiling takes minutes, so of these formats only what has been run is claimed; AOTInductor has
# compiled the small model of the first, the graphs of the others were proved uncompiled.
COMPILED = ("Semantic FPN",)
TESTED = {
    "pt2": (
        *COMPILED,
        "Faster R-CNN FPN",
        "Mask R-CNN FPN",
        "Cascade Mask R-CNN",
        "Keypoint R-CNN",
        "RetinaNet",
        "FCOS",
    ),
    "executorch": (
        "Faster R-CNN FPN",
        "Mask R-CNN FPN",
        "Mask R-CNN C4",
        "Cascade Mask R-CNN",
        "Keypoint R-CNN",
        "RetinaNet",
        "Semantic FPN",
        "RPN",
        "FCOS",
    ),
}


def supported(architecture, format):
    """ "yes", "yes, uncompiled", "not tested", or "no: " and the reason."""
    done = "yes"
    if architecture not in TESTED.get(format, (architecture,)):
        done = "not tested"
    elif format == "pt2" and architecture not in COMPILED:
        done = "yes, uncompiled"
    return EXCEPTIONS.get((architecture, format), done)


def table():
    """Markdown for docs/export.md."""
    rows = [["", *FORMATS], ["---"] * (len(FORMATS) + 1)]
    rows += [[name, *(supported(name, each) for each in FORMATS)] for name in ARCHITECTURES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
