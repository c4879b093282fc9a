import pytest

from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def catalogs_as_before():
    """Forgets what a test registers: other tests list all names."""
    known = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)
