"""`detectron2 zoo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from detectron2.model_zoo.catalogue import ZooEntry

EXAMPLE = (
    "Examples: detectron2 zoo; detectron2 zoo list --task instance-segmentation --sort ap; "
    "detectron2 zoo show COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml; "
    "detectron2 zoo convert model_final_280758.pkl model.safetensors"
)

app = typer.Typer(help="The models of the zoo: scores, speed, memory, licence, weights.")

_SCORES = {
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "keypoint_ap": "kp AP",
    "pq": "PQ",
    "miou": "mIoU",
}

_WIDTH_OF_NUMBERS = 80


@app.callback(invoke_without_command=True)
def _list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models()


@app.command("list", epilog="Example: detectron2 zoo list --task instance-segmentation --sort ap")
def list_models(
    task: Annotated[str | None, typer.Option(help="Only models of this task.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only models of this dataset.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="ap, a score such as box_ap, or inference_seconds_per_image."),
    ] = None,
) -> None:
    """List the trained models with the numbers that their authors published."""
    from rich.console import Console
    from rich.table import Table

    from detectron2.model_zoo import catalogue

    # A name with a space is a nuisance in a shell: instance-segmentation is as good.
    task = task and task.replace("-", " ").replace("_", " ")
    entries = catalogue.entries(task, dataset, sort)
    table = Table(caption=f"Weights: {catalogue.weights_licence()}. Times and memory on V100.")
    table.add_column("config", no_wrap=True)
    for column in (*_SCORES.values(), "s/image", "train GB"):
        table.add_column(column, justify="right")
    for entry in entries:
        table.add_row(entry.config, *_numbers(entry))
    # A table cut to a narrow terminal, or to the 80 columns of a pipe, would lose names.
    needed = max((len(entry.config) for entry in entries), default=0) + _WIDTH_OF_NUMBERS
    Console(width=max(Console().width, needed)).print(table)


@app.command(
    "show",
    epilog="Example: detectron2 zoo show COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
)
def show(
    config: Annotated[str, typer.Argument(help="Name of a config of the zoo.")],
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width of the image to count GFLOPs for."),
    ] = None,
    build: Annotated[
        bool, typer.Option(help="Build the model to count its parameters and GFLOPs.")
    ] = True,
) -> None:
    """Show one model: architecture, parameters, GFLOPs, published numbers, weights, licence."""
    from rich.console import Console

    from detectron2 import model_zoo
    from detectron2.model_zoo import catalogue

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"config file: {model_zoo.get_config_file(config)}")
    entry = catalogue.find(config)
    if build:
        _show_architecture(console, config, size)
    if entry is None:
        console.print("weights: none are published for this config")
        return
    console.print(f"task: {entry.task} on {entry.dataset}, schedule {entry.schedule or 'unknown'}")
    for name, value in entry.metrics.items():
        console.print(f"{name}: {value}")
    for label, value in (
        ("inference, seconds per image", entry.inference_seconds_per_image),
        ("training, seconds per iteration", entry.train_seconds_per_iteration),
        ("memory of training, GB per GPU", entry.train_memory_gb),
    ):
        if value is not None:
            console.print(f"{label}: {value}")
    console.print(f"weights: {entry.url}\nlicence of the weights: {catalogue.weights_licence()}")


def _show_architecture(console: Console, config: str, size: tuple[int, int] | None) -> None:
    from rich.table import Table

    from detectron2.model_zoo.summary import build, summarize, usual_size

    built = build(config)
    size = size or usual_size(built)
    model = summarize(built, size)
    table = Table()
    for column in ("part", "layers"):
        table.add_column(column)
    for column in ("parameters", "GFLOPs"):
        table.add_column(column, justify="right")
    for part in model.parts:
        table.add_row(part.name, part.layers, f"{part.parameters:,}", f"{part.gflops:.1f}")
    console.print(f"architecture: {model.architecture}")
    console.print(table)
    console.print(
        f"parameters: {model.parameters:,} ({model.trainable:,} trained), "
        f"{model.megabytes:.0f} MB in memory\n"
        f"GFLOPs: {model.gflops:.1f} multiply-adds for an image of {size[0]} x {size[1]}"
    )


@app.command(
    "download",
    epilog="Example: detectron2 zoo download COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
)
def download(
    config: Annotated[str, typer.Argument(help="Name of a config of the zoo.")],
) -> None:
    """Fetch the weights of a model into the cache, check them and print where they are."""
    from detectron2 import model_zoo
    from detectron2.utils.file_io import PathManager

    print(PathManager.get_local_path(model_zoo.get_checkpoint_url(config)))


@app.command(
    "convert", epilog="Example: detectron2 zoo convert model_final_280758.pkl model.safetensors"
)
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Checkpoint file or address.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New file; its ending decides.")],
) -> None:
    """Rewrite a checkpoint as .safetensors, .pth or .pkl; weights and their names stay."""
    from detectron2.checkpoint.convert import convert_checkpoint

    done = convert_checkpoint(source, target)
    print(f"{target}: {done.tensors} tensors, {done.megabytes:.1f} MB")
    if done.left_out:
        print(f"left out: {', '.join(done.left_out)}")


def _numbers(entry: ZooEntry) -> list[str]:
    numbers = [(entry.metrics.get(name), ".1f") for name in _SCORES]
    numbers += [(entry.inference_seconds_per_image, ".3f"), (entry.train_memory_gb, ".1f")]
    return ["" if value is None else format(value, digits) for value, digits in numbers]
