"""The yacs tree: files, bases, versions, unknown keys."""

import pytest

from detectron2.config import (
    CfgNode,
    downgrade_config,
    get_cfg,
    global_cfg,
    set_global_cfg,
    upgrade_config,
)
from detectron2.config.defaults import _C


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_get_cfg_gives_a_copy_that_can_be_changed():
    cfg = get_cfg()
    cfg.MODEL.RPN.NMS_THRESH = 0.1
    assert get_cfg().MODEL.RPN.NMS_THRESH == _C.MODEL.RPN.NMS_THRESH == 0.7


def test_class_is_defined_at_its_public_path():
    assert CfgNode.__module__ == "detectron2.config.config"
    assert type(get_cfg().MODEL) is CfgNode


def test_file_is_laid_over_its_base_and_the_base_over_the_defaults(tmp_path):
    write(tmp_path, "base.yaml", "MODEL: {MASK_ON: True, RPN: {NMS_THRESH: 0.6}}\n")
    top = write(tmp_path, "top.yaml", "_BASE_: base.yaml\nMODEL: {RPN: {NMS_THRESH: 0.5}}\n")
    cfg = get_cfg()
    cfg.merge_from_file(top)
    assert (cfg.MODEL.MASK_ON, cfg.MODEL.RPN.NMS_THRESH, cfg.SEED) == (True, 0.5, -1)


def test_of_several_bases_the_later_one_wins(tmp_path):
    write(tmp_path, "a.yaml", "SEED: 1\nVIS_PERIOD: 1\n")
    write(tmp_path, "b.yaml", "SEED: 2\n")
    top = write(tmp_path, "top.yaml", "_BASE_: [a.yaml, b.yaml]\n")
    cfg = get_cfg()
    cfg.merge_from_file(top)
    assert (cfg.SEED, cfg.VIS_PERIOD) == (2, 1)


def test_base_that_leads_back_to_the_file_is_an_error(tmp_path):
    write(tmp_path, "a.yaml", "_BASE_: b.yaml\n")
    path = write(tmp_path, "b.yaml", "_BASE_: a.yaml\n")
    with pytest.raises(ValueError, match="circle.*b.yaml -> .*a.yaml -> .*b.yaml"):
        get_cfg().merge_from_file(path)


def test_base_value_cannot_become_a_group(tmp_path):
    write(tmp_path, "base.yaml", "SEED: 1\n")
    path = write(tmp_path, "top.yaml", "_BASE_: base.yaml\nSEED: {A: 1}\n")
    with pytest.raises(ValueError, match="top.yaml.*'SEED' a group"):
        get_cfg().merge_from_file(path)


def test_unknown_key_names_the_nearest_one_and_the_file_and_changes_nothing(tmp_path):
    path = write(tmp_path, "c.yaml", "SEED: 5\nMODEL: {ROI_HEADS: {NUM_CLASES: 3}}\n")
    cfg = get_cfg()
    with pytest.raises(
        KeyError, match=r"NUM_CLASES.*did you mean 'MODEL.ROI_HEADS.NUM_CLASSES'"
    ) as e:
        cfg.merge_from_file(path)
    assert path in str(e.value)
    assert cfg == get_cfg()


def test_wrong_type_names_the_key_and_the_file(tmp_path):
    path = write(tmp_path, "c.yaml", "MODEL: {MASK_ON: 5.5}\n")
    with pytest.raises(ValueError, match="MODEL.MASK_ON.*c.yaml"):
        get_cfg().merge_from_file(path)


def test_lists_and_tuples_take_the_type_of_the_default(tmp_path):
    path = write(
        tmp_path,
        "c.yaml",
        "SOLVER: {STEPS: [1, 2]}\nDATASETS: {TRAIN: !!python/tuple [a, b]}\n"
        "MODEL: {PIXEL_STD: !!python/tuple [2.0, 2.0, 2.0]}\n",
    )
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert (cfg.SOLVER.STEPS, cfg.DATASETS.TRAIN) == ((1, 2), ("a", "b"))
    assert cfg.MODEL.PIXEL_STD == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("allow_unsafe", [True, False])
def test_convention_no_yaml_tag_runs_code(tmp_path, allow_unsafe):
    target = tmp_path / "ran"
    path = write(tmp_path, "c.yaml", f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{target}']\n")
    with pytest.raises(ValueError, match="c.yaml.*would run Python code"):
        get_cfg().merge_from_file(path, allow_unsafe=allow_unsafe)
    assert not target.exists()


def test_file_without_a_mapping_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds a list"):
        get_cfg().merge_from_file(write(tmp_path, "c.yaml", "- 1\n"))


def test_empty_file_changes_nothing(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path, "c.yaml", ""))
    assert cfg == get_cfg()


def test_new_keys_are_taken_after_set_new_allowed_also_in_groups_that_are_new(tmp_path):
    cfg = get_cfg()
    cfg.set_new_allowed(True)
    cfg = cfg.clone()
    cfg.merge_from_file(write(tmp_path, "a.yaml", "MINE: {A: 1}\n"))
    cfg.merge_from_file(write(tmp_path, "b.yaml", "MINE: {B: 2}\nMODEL: {MINE: 3}\n"))
    assert (cfg.MINE.A, cfg.MINE.B, cfg.MODEL.MINE) == (1, 2, 3)


def test_list_of_overrides_reads_literals():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.RPN.NMS_THRESH", "0.3", "DATASETS.TRAIN", "('a',)"])
    assert (cfg.MODEL.RPN.NMS_THRESH, cfg.DATASETS.TRAIN) == (0.3, ("a",))
    cfg.merge_from_list(["SOLVER.BASE_LR", "1000000", "SEED", "3"])
    assert cfg.SOLVER.BASE_LR == 1e6 and isinstance(cfg.SOLVER.BASE_LR, float) and cfg.SEED == 3
    with pytest.raises(
        ValueError,
        match=r"SOLVER.MAX_ITER is 0.5, of type float; it must be of type int, such as .* 40000\.",
    ):
        cfg.merge_from_list(["SOLVER.MAX_ITER", "0.5"])


def test_bad_overrides_are_explained():
    with pytest.raises(AssertionError, match="pairs.*1 items"):
        get_cfg().merge_from_list(["SEED"])
    with pytest.raises(AssertionError, match="did you mean 'SOLVER.BASE_LR'"):
        get_cfg().merge_from_list(["SOLVER.BASELR", 1])


def test_deprecated_key_is_ignored_and_renamed_key_is_explained():
    cfg = get_cfg()
    cfg.register_deprecated_key("GONE")
    cfg.register_renamed_key("OLD", "SEED")
    cfg.merge_from_other_cfg(CfgNode({"GONE": 1}))
    with pytest.raises(KeyError, match="OLD was renamed to SEED"):
        cfg.merge_from_other_cfg(CfgNode({"OLD": 1}))


def test_config_without_version_reads_files_as_they_are(tmp_path):
    cfg = CfgNode({"A": 1})
    cfg.merge_from_file(write(tmp_path, "c.yaml", "A: 2\n"))
    assert cfg.A == 2


def test_global_config_holds_what_was_set():
    set_global_cfg(CfgNode({"A": 3}))
    assert global_cfg.A == 3
    set_global_cfg(CfgNode())


# --- versions -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 2])
def test_upgrade_undoes_downgrade(version):
    cfg = get_cfg()
    cfg.MINE = CfgNode({"A": 1})
    old = downgrade_config(cfg, version)
    assert version == old.VERSION
    assert upgrade_config(old) == cfg


def test_version_1_keeps_anchors_in_both_heads():
    old = downgrade_config(get_cfg(), 1)
    assert old.MODEL.RPN.ANCHOR_SIZES == old.MODEL.RETINANET.ANCHOR_SIZES
    assert "LOSS_WEIGHT" not in old.MODEL.RPN
    assert "ANCHOR_GENERATOR" in old.MODEL and "SIZES" not in old.MODEL.ANCHOR_GENERATOR


@pytest.mark.parametrize(
    ("text", "read", "expected"),
    [
        ("MODEL: {WEIGHT: w.pkl}", lambda c: c.MODEL.WEIGHTS, "w.pkl"),
        ("VERSION: 0\nMODEL: {RPN_HEAD: {NAME: h}}", lambda c: c.MODEL.RPN.HEAD_NAME, "h"),
        ("MODEL: {RPN_HEAD: {NAME: h}}", lambda c: c.MODEL.RPN.HEAD_NAME, "h"),
        ("TEST: {AUG_ON: True}", lambda c: c.TEST.AUG.ENABLED, True),
        (
            "MODEL: {META_ARCHITECTURE: RetinaNet, RETINANET: {ANCHOR_SIZES: [[9]]}, "
            "RPN: {ANCHOR_SIZES: [[1]]}}",
            lambda c: c.MODEL.ANCHOR_GENERATOR.SIZES,
            [[9]],
        ),
        ("MODEL: {RPN: {ANCHOR_SIZES: [[1]]}}", lambda c: c.MODEL.ANCHOR_GENERATOR.SIZES, [[1]]),
    ],
)
def test_old_file_is_converted(tmp_path, text, read, expected):
    cfg = get_cfg()
    cfg.merge_from_file(write(tmp_path, "old.yaml", text + "\n"))
    assert read(cfg) == expected
    assert cfg.VERSION == 2


def test_file_of_a_newer_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="VERSION 3"):
        get_cfg().merge_from_file(write(tmp_path, "c.yaml", "VERSION: 3\n"))


@pytest.mark.parametrize(
    "convert", [lambda c: downgrade_config(c, 9), lambda c: upgrade_config(c, 1)]
)
def test_impossible_conversion_is_refused(convert):
    with pytest.raises(AssertionError, match="cannot be"):
        convert(get_cfg())


def test_conversion_keeps_a_frozen_config_frozen_and_untouched():
    cfg = get_cfg()
    cfg.freeze()
    assert downgrade_config(cfg, 1).is_frozen()
    assert cfg.VERSION == 2
