import pytest
from omegaconf import DictConfig, OmegaConf

from detectron2.config import CfgNode, get_cfg
from detectron2.engine.config_source import find_config_file, resolve_config

ZOO_NAME = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


@pytest.fixture
def yaml_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("SOLVER:\n  BASE_LR: 0.25\n")
    return path


@pytest.fixture
def lazy_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("train = dict(max_iter=7, output_dir='a')\n")
    return path


def test_a_yaml_file(yaml_file):
    for source in (yaml_file, str(yaml_file)):
        cfg = resolve_config(source)
        assert isinstance(cfg, CfgNode)
        assert cfg.SOLVER.BASE_LR == 0.25
        assert not cfg.is_frozen()


def test_a_lazy_file(lazy_file):
    cfg = resolve_config(lazy_file, ["train.max_iter=9", "train.output_dir=b"])
    assert isinstance(cfg, DictConfig)
    assert cfg.train == {"max_iter": 9, "output_dir": "b"}


def test_a_name_of_the_zoo():
    cfg = resolve_config(ZOO_NAME)
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert find_config_file(ZOO_NAME).endswith(ZOO_NAME)


@pytest.mark.parametrize("make", [get_cfg, lambda: OmegaConf.create({"a": {"b": 1}})])
def test_a_config_is_copied(make):
    cfg = make()
    if isinstance(cfg, CfgNode):
        cfg.freeze()
    copy = resolve_config(cfg)
    assert copy == cfg
    assert copy is not cfg
    copy.new_key = 3
    assert "new_key" not in cfg


@pytest.mark.parametrize(
    "overrides",
    [
        ["SOLVER.BASE_LR", "0.5", "DATASETS.TRAIN", "('a',)"],
        ["SOLVER.BASE_LR=0.5", "DATASETS.TRAIN=('a',)"],
        ["SOLVER.BASE_LR", "0.5", "DATASETS.TRAIN=('a',)"],
    ],
)
def test_overrides_are_pairs_or_assignments(overrides, yaml_file):
    cfg = resolve_config(yaml_file, overrides)
    assert cfg.SOLVER.BASE_LR == 0.5
    assert cfg.DATASETS.TRAIN == ("a",)


def test_a_value_may_contain_an_equals_sign(yaml_file):
    cfg = resolve_config(yaml_file, ["OUTPUT_DIR", "lr=3", "MODEL.WEIGHTS=x?a=b"])
    assert cfg.OUTPUT_DIR == "lr=3"
    assert cfg.MODEL.WEIGHTS == "x?a=b"


def test_an_unknown_key_is_a_key_error(yaml_file):
    with pytest.raises(KeyError, match="SOLVER.BASE_LRR"):
        resolve_config(yaml_file, ["SOLVER.BASE_LRR", "0.5"])
    with pytest.raises(ValueError, match="'SEED' has no value"):
        resolve_config(yaml_file, ["SOLVER.BASE_LR=0.5", "SEED"])


def test_a_key_that_is_nearly_another_is_not_added_to_a_lazy_config(lazy_file):
    with pytest.raises(KeyError, match="no 'train.max_itr'; did you mean 'train.max_iter'"):
        resolve_config(lazy_file, ["train.max_itr=9"])
    with pytest.raises(KeyError, match="did you mean 'train.max_iter'"):
        resolve_config(lazy_file, ["trian.max_iter=9"])
    cfg = resolve_config(lazy_file, ["+train.max_itr=9", "train.ema.enabled=True", "new.x.y=1"])
    assert (cfg.train.max_itr, cfg.train.ema.enabled, cfg.new.x.y) == (9, True, 1)


@pytest.mark.parametrize(
    "name", ["COCO-Detection/faster_rcnn_R50_FPN_1x.yaml", "faster_rcnn_R_50_FPN_1x.yaml"]
)
def test_an_unknown_name_is_told_its_neighbours(name):
    with pytest.raises(FileNotFoundError, match=f"Similar names: .*{ZOO_NAME}"):
        resolve_config(name)


def test_a_name_like_no_other_is_told_where_names_are():
    with pytest.raises(FileNotFoundError, match="detectron2 zoo list"):
        resolve_config("qqqqqqqqqq")


def test_what_is_no_config_is_refused():
    with pytest.raises(TypeError, match="A list is no config"):
        resolve_config(["a.yaml"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "x = (\n", r"a.py' is no valid Python, line 1: .*\n    x = \("),
        ("a.py", "x = 1\ny = x.z\n", r"a.py', line 2: AttributeError: 'int' object has no"),
        ("a.py", "from .b import c\n", r"a.py', line 1: ImportError: .* does not exist"),
        ("a.py", "from .inner import x\n", r"inner.py', line 2: ZeroDivisionError"),
        ("a.yaml", "A: [1\nB: 2\n", r"a.yaml' is no valid YAML, line 2, column 2: expected"),
        ("a.yaml", "VERSION: 3\nNEW: 1\n", r"a.yaml' is of VERSION 3, but this config is of"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence_with_file_and_line(tmp_path, name, text, message):
    (tmp_path / "inner.py").write_text("\nx = 1 / 0\n")
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        resolve_config(tmp_path / name)
