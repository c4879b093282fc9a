"""Detectron2 in OpenVINO: wrap, convert, read outputs by position, draw.

    python detect.py photo.jpg --config COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml

`detectron2 export MODEL --format openvino --output model.xml` does the same with a file for any
number of images, and proves it; this shows the steps for code of one's own.
"""

import argparse
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from PIL import Image

from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog, detection_utils
from detectron2.data import transforms as T
from detectron2.export import TracingAdapter
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer


def load_model(config: str, trained: bool):
    """Config and model of a zoo name or a YAML file."""
    if not Path(config).exists():
        cfg = model_zoo.get_config(config, trained=trained)
    else:
        cfg = get_cfg()
        cfg.merge_from_file(config)
    cfg.MODEL.DEVICE = "cpu"
    if trained:
        return cfg, model_zoo.get(config, trained=True, device="cpu").eval()
    return cfg, build_model(cfg).eval()


def prepare(path: str, cfg):
    """The picture (H, W, 3) in BGR, and what the model takes: (3, H', W') float32."""
    picture = detection_utils.read_image(path, format=cfg.INPUT.FORMAT)
    resize = T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    resized = resize.get_transform(picture).apply_image(picture)
    return picture, torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))


def convert(model: torch.nn.Module, image: torch.Tensor) -> ov.Model:
    """The model in OpenVINO, for images of any size."""

    def inference(model, inputs):
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]

    adapter = TracingAdapter(model, inputs=[{"image": image}], inference_func=inference)
    return ov.convert_model(adapter, example_input=image)


def to_instances(outputs, height: int, width: int) -> Instances:
    """Detections in a picture of (height, width).

    The outputs of the adapter are the fields of Instances by name, and the size comes last: boxes,
    classes, masks (if there are any), scores, size.
    """
    boxes, classes, *masks, scores, size = [np.array(outputs[i]) for i in range(len(outputs))]
    found = Instances(tuple(int(side) for side in size))
    found.pred_boxes = Boxes(torch.from_numpy(boxes))
    found.scores = torch.from_numpy(scores)
    found.pred_classes = torch.from_numpy(classes)
    if masks:
        found.pred_masks = torch.from_numpy(masks[0])
    return detector_postprocess(found, height, width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--config", default="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--output", default="openvino")
    args = parser.parse_args()

    cfg, model = load_model(args.config, trained=not args.random_weights)
    picture, image = prepare(args.image, cfg)
    converted = convert(model, image)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(converted, folder / "model.xml", compress_to_fp16=False)

    compiled = ov.Core().compile_model(
        folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found = to_instances(compiled(image.numpy()), *picture.shape[:2])
    with torch.no_grad():
        expected = model([{"image": image, "height": picture.shape[0], "width": picture.shape[1]}])
    gap = 0.0
    if len(found) == len(expected[0]["instances"]):
        scores = expected[0]["instances"].scores
        gap = float((found.scores - scores).abs().max()) if len(found) else 0.0
        print(f"{len(found)} detections, as in PyTorch; scores differ by at most {gap:.1e}")
    else:
        print(f"{len(found)} detections, {len(expected[0]['instances'])} in PyTorch")

    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    drawing = Visualizer(picture[:, :, ::-1], metadata, scale=1.2)
    drawing = drawing.draw_instance_predictions(found)
    Image.fromarray(drawing.get_image()).save(folder / "detections.png")
    print(f"wrote {folder / 'model.xml'} and {folder / 'detections.png'}")


if __name__ == "__main__":
    main()
