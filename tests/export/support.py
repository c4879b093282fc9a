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
NO_FIXED_SAMPLES = "no: the number of samples of rotated ROIAlign has no bound"
EXCEPTIONS = {
    ("Rotated Faster R-CNN", "onnx"): NO_ROTATED,
    ("Rotated Faster R-CNN", "openvino"): NO_ROTATED,
    ("Rotated Faster R-CNN", "executorch"): NO_FIXED_SAMPLES,
}

# Compiling takes minutes: of pt2 files AOTInductor has compiled these small models, the graphs of
# the others were proved uncompiled.
COMPILED = ("Semantic FPN", "RetinaNet", "Mask R-CNN FPN")


def supported(architecture, format):
    """ "yes", "yes, uncompiled" with or without a reason, or "no: " and the reason."""
    done = "yes, uncompiled" if format == "pt2" and architecture not in COMPILED else "yes"
    return EXCEPTIONS.get((architecture, format), done)


def table():
    """Markdown for docs/export.md."""
    rows = [["", *FORMATS], ["---"] * (len(FORMATS) + 1)]
    rows += [[name, *(supported(name, each) for each in FORMATS)] for name in ARCHITECTURES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
