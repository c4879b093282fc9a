"""`detectron2 dataset`: each module of this folder is a verb, its `command` and `EXAMPLE`.

A new verb is a new file; nothing else needs to be edited.
"""

from __future__ import annotations

import importlib
import pkgutil

import typer

__all__ = ["EXAMPLE", "app"]

EXAMPLE = (
    "Examples: detectron2 dataset stats my_photos/; "
    "detectron2 dataset convert my_photos/ my_photos_yolo/ --to yolo"
)


def _verbs() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name for name in names if not name.startswith("_"))


app = typer.Typer(help="Look at, convert and check datasets.", no_args_is_help=True)
for verb in _verbs():
    module = importlib.import_module(f"{__name__}.{verb}")
    app.command(verb, epilog=module.EXAMPLE)(module.command)
