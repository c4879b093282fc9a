"""ONNX files, run by onnxruntime."""

import numpy as np

INFO_NAME = "detectron2"
INPUTS = ("images", "image_sizes", "output_sizes")


class Runtime:
    """An ONNX file; `device` is "cpu" or "cuda", `threads` 0 for as many as it likes."""

    def __init__(self, path: str, device: str = "cpu", threads: int = 0) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        provider = "CUDAExecutionProvider" if device.startswith("cuda") else "CPUExecutionProvider"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        self.info = self.session.get_modelmeta().custom_metadata_map.get(INFO_NAME, "")
        self.inputs = [each.name for each in self.session.get_inputs()]

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        # A graph that does not depend on an input has none of that name.
        given = dict(zip(INPUTS, inputs))
        return self.session.run(None, {name: given[name] for name in self.inputs})
