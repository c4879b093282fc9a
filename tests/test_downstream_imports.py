"""Every name that known projects import from us, by accident or not, stays where they look for it.

`golden/downstream_imports.txt` has a module a line and behind it the names that were found in
projects built on the original: also such as the module only happens to import, which a tidy-up of
unused imports would take away.
"""

import importlib
from pathlib import Path

import pytest

LIST = Path(__file__).parent / "golden" / "downstream_imports.txt"
NAMES = {
    module: names.split()
    for module, names in (line.split(":", 1) for line in LIST.read_text().splitlines())
}


@pytest.mark.parametrize("module", sorted(NAMES))
def test_convention_downstream_imports_find_their_names(module):
    found = importlib.import_module(module)
    missing = [name for name in NAMES[module] if not hasattr(found, name)]
    assert not missing, f"{module} lost {missing}, which other projects import from it"


def test_subpackages_are_attributes_of_the_package():
    import detectron2

    assert detectron2.layers.FrozenBatchNorm2d and detectron2.modeling.backbone.FPN
