"""OpenVINO IR (a .xml and a .bin file), run by OpenVINO."""

import numpy as np

INFO_NAME = "detectron2"
INPUTS = ("images", "image_sizes", "output_sizes")


class Runtime:
    """An IR file; `device` is a name of OpenVINO's, "cpu" among them.

    `threads` is 0 for as many as it likes, `precision` what OpenVINO calls "f32" or "bf16".
    """

    def __init__(
        self, path: str, device: str = "cpu", threads: int = 0, precision: str = "f32"
    ) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(path))
        self.info = ""
        if model.has_rt_info(INFO_NAME):
            self.info = model.get_rt_info(INFO_NAME).astype(str)
        # bfloat16, OpenVINO's default on some CPUs, would not pass the proof.
        settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": precision}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self.compiled = core.compile_model(model, device.upper(), settings)
        self.inputs = [each.get_any_name() for each in self.compiled.inputs]

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        given = dict(zip(INPUTS, inputs))
        outputs = self.compiled({name: given[name] for name in self.inputs})
        return [np.array(outputs[port]) for port in self.compiled.outputs]
