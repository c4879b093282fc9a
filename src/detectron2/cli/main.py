"""Entry point of the `detectron2` command."""

from __future__ import annotations

import os
import pickle
import re
import sys
from typing import Annotated

import typer

from detectron2.cli import (
    benchmark,
    compare,
    dataset,
    debug_batch,
    doctor,
    evaluate,
    export,
    predict,
    quickstart,
    serve,
    train,
    visualize,
    zoo,
)
from detectron2.version import __version__

__all__ = ["app", "main"]

TRACEBACK_VARIABLE = "DETECTRON2_TRACEBACK"
# What users can get wrong. AssertionError is what programs written for the original catch for a
# missing checkpoint and the like.
MISTAKES = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    ImportError,
    ArithmeticError,
    AssertionError,
    pickle.UnpicklingError,  # a checkpoint that was refused, too
)

app = typer.Typer(
    name="detectron2",
    help="Object detection, segmentation and keypoints: train, evaluate, predict, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("quickstart", epilog=quickstart.EXAMPLE)(quickstart.quickstart)
app.command("predict", epilog=predict.EXAMPLE)(predict.predict)
app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("debug-batch", epilog=debug_batch.EXAMPLE)(debug_batch.debug_batch)
app.command("eval", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("compare", epilog=compare.EXAMPLE)(compare.compare)
app.command("export", epilog=export.EXAMPLE)(export.export)
app.command("serve", epilog=serve.EXAMPLE)(serve.serve)
app.command("visualize", epilog=visualize.EXAMPLE)(visualize.visualize)
app.add_typer(dataset.app, name="dataset", epilog=dataset.EXAMPLE)
app.add_typer(zoo.app, name="zoo", epilog=zoo.EXAMPLE)
app.command("benchmark", epilog=benchmark.EXAMPLE)(benchmark.benchmark)
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"detectron2 {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print it.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def _sentence(error: Exception) -> str:
    """The message of an error; that of a loader's worker comes with the traceback from there."""
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str(KeyError) puts quotes around the sentence
    else:
        text = str(error)
    if "Original Traceback (most recent call last):" in text:
        text = re.split(r"\n[\w.]*(?:Error|Exception): ", text)[-1].strip()
    return text


def main() -> None:
    """Run the command. What a user can mend is one sentence on stderr and exit code 1."""
    try:
        app()
    except MISTAKES as error:
        # An assertion without a sentence is a mistake of ours.
        is_bug = isinstance(error, AssertionError) and not error.args
        if is_bug or os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        print(f"({TRACEBACK_VARIABLE}=1 shows where it was raised.)", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
