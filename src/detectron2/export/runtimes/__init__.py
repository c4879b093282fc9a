"""One module per runtime that runs exported files.

Each has a class `Runtime`, made from a path, with `info`, the text that `detectron2.export` stored
in the file, and ``runtime(images, image_sizes)``, which takes and returns NumPy arrays; files that
postprocess take `output_sizes` too. They
import nothing of detectron2, so the exporter can prove that a file needs nothing of it either.
"""
