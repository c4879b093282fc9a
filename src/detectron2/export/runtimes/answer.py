"""Run an exported file in a process that has never imported detectron2.

usage: answer.py RUNTIME_MODULE EXPORTED_FILE FOLDER

Reads FOLDER/request_0.npz, request_1.npz, ... and writes answer_0.npz, ... with the outputs in
order, and FOLDER/info.json.
"""

import importlib.util
import os
import sys

import numpy as np


def main(module_path: str, path: str, folder: str) -> None:
    spec = importlib.util.spec_from_file_location("runtime_of_exported_file", module_path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runtime = module.Runtime(path)
    with open(os.path.join(folder, "info.json"), "w", encoding="utf-8") as stream:
        stream.write(runtime.info)
    number = 0
    while os.path.exists(os.path.join(folder, f"request_{number}.npz")):
        with np.load(os.path.join(folder, f"request_{number}.npz")) as request:
            outputs = runtime(*(request[f"input_{index}"] for index in range(len(request.files))))
        np.savez(os.path.join(folder, f"answer_{number}.npz"), *outputs)
        number += 1
    if "detectron2" in sys.modules:
        sys.exit("The exported file needs detectron2, which it must not.")


if __name__ == "__main__":
    main(*sys.argv[1:])
