"""Panoptic-DeepLab beside its golden cases."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_deeplab import (
    CLASSES,
    DIVISOR,
    PANOPTIC,
    PANOPTIC_SEPARABLE,
    SIDE,
    forget_panoptic_dataset,
    panoptic_scene,
    set_panoptic_metadata,
    small_config,
    small_model,
    write_panoptic_dataset,
)
from torch import nn
from torch.testing import assert_close

from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine.inference import speed_up
from detectron2.engine.predict_command import PredictOptions, run_predict
from detectron2.engine.train_command import TrainOptions, run_evaluate, run_train
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper, post_processing
from detectron2.projects.panoptic_deeplab.post_processing import (
    find_instance_center,
    get_panoptic_segmentation,
    group_pixels,
    merge_semantic_and_instance,
)
from detectron2.projects.panoptic_deeplab.target_generator import (
    PanopticDeepLabTargetGenerator,
    panoptic_ids,
)

THINGS = {2, 3}


@pytest.fixture
def metadata():
    set_panoptic_metadata()
    yield
    forget_panoptic_dataset()


@pytest.fixture
def dataset(tmp_path):
    yield write_panoptic_dataset(tmp_path)
    forget_panoptic_dataset()


def generator(**options):
    return PanopticDeepLabTargetGenerator(255, THINGS, **{"sigma": 2, **options})


def scene_without_crowd():
    ids, segments = panoptic_scene()
    ids[ids == 3000] = 11
    return ids, [segment for segment in segments if not segment["iscrowd"]]


def training_input(scene=panoptic_scene):
    ids, segments = scene()
    colors = torch.from_numpy(ids % 251).float()
    image = torch.stack([colors, 255 - colors, colors / 2])
    return {"image": image, **generator()(ids, segments)}


# --- post-processing --------------------------------------------------------------------------


def test_centers_are_the_maxima_of_their_windows():
    heatmap = torch.zeros(1, 6, 9)
    heatmap[0, 1, 1], heatmap[0, 1, 3], heatmap[0, 4, 7] = 0.9, 0.8, 0.3
    assert find_instance_center(heatmap, 0.1, nms_kernel=3).tolist() == [[1, 1], [1, 3], [4, 7]]
    assert find_instance_center(heatmap, 0.1, nms_kernel=5).tolist() == [[1, 1], [4, 7]]
    assert find_instance_center(heatmap, 0.3, nms_kernel=3).tolist() == [[1, 1], [1, 3]]
    assert find_instance_center(torch.zeros(1, 6, 9), 0.0).shape == (0, 2)


def test_quirk_top_k_keeps_those_above_the_last_of_them():
    heatmap = torch.zeros(1, 1, 9)
    heatmap[0, 0, ::2] = torch.tensor([0.5, 0.9, 0.7, 0.6, 0.8])
    assert find_instance_center(heatmap, top_k=3).tolist() == [[0, 2], [0, 8]]
    assert len(find_instance_center(heatmap, top_k=6)) == 5


def test_a_pixel_belongs_to_the_center_that_its_offset_points_to(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    offsets = torch.randn(2, 13, 17, generator=draw) * 6
    centers = torch.randint(0, 13, (5, 2), generator=draw)
    expected = torch.zeros(1, 13, 17, dtype=torch.int64)
    for y in range(13):
        for x in range(17):
            point = torch.tensor([y, x]) + offsets[:, y, x]
            expected[0, y, x] = (centers - point).norm(dim=1).argmin() + 1
    assert torch.equal(group_pixels(centers, offsets), expected)
    # Also if only a few distances are held at once.
    monkeypatch.setattr(post_processing, "_DISTANCES_AT_ONCE", 7)
    assert torch.equal(group_pixels(centers, offsets), expected)


def merged_pixel_by_pixel(sem_seg, ins_seg, things, stuff_area):
    """The definition: majority of the pixels of a thing, then stuff that is large enough."""
    result = torch.full_like(sem_seg, -1)
    seen = dict.fromkeys(range(CLASSES), 0)
    for number in ins_seg.unique().tolist():
        mask = (ins_seg == number) & things
        if number == 0 or not mask.any():
            continue
        label = sem_seg[mask].mode().values.item()
        seen[label] += 1
        result[mask] = label * DIVISOR + seen[label]
    for label in set(range(CLASSES)) - THINGS:
        mask = (sem_seg == label) & (ins_seg == 0)
        if mask.sum() >= stuff_area:
            result[mask] = label * DIVISOR
    return result


@pytest.mark.parametrize("seed", range(3))
def test_merging_is_a_vote_and_stuff_of_a_size(seed):
    draw = torch.Generator().manual_seed(seed)
    sem_seg = torch.randint(0, CLASSES, (1, 20, 24), generator=draw)
    ins_seg = torch.randint(0, 7, (1, 20, 24), generator=draw)
    ins_seg[ins_seg == 4] = 0  # numbers may be missing
    things = torch.rand(1, 20, 24, generator=draw) < 0.7
    for stuff_area in (1, int(((sem_seg == 0) & (ins_seg == 0)).sum()) + 1):
        found = merge_semantic_and_instance(
            sem_seg, ins_seg, things, DIVISOR, THINGS, stuff_area, -1
        )
        assert torch.equal(found, merged_pixel_by_pixel(sem_seg, ins_seg, things, stuff_area))


def test_without_centers_things_are_void():
    sem_seg = torch.tensor([[[0, 0, 2, 3]]])
    found, centers = get_panoptic_segmentation(
        sem_seg, torch.zeros(1, 1, 4), torch.zeros(2, 1, 4), THINGS, DIVISOR, 1, -1
    )
    assert found.tolist() == [[[0, 0, -1, -1]]] and centers.shape == (1, 0, 2)


def test_a_foreground_mask_replaces_the_classes_of_things():
    sem_seg = torch.tensor([[[0, 0, 2, 3]]])
    heatmap = torch.tensor([[[0.9, 0.0, 0.0, 0.0]]])
    mask = torch.tensor([[[1, 1, 0, 0]]])
    found, _ = get_panoptic_segmentation(
        sem_seg, heatmap, torch.zeros(2, 1, 4), THINGS, DIVISOR, 1, -1, foreground_mask=mask
    )
    assert found.tolist() == [[[1, 1, -1, -1]]]


def test_maps_of_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 4, 4\); it must be \(1, height, width\)"):
        find_instance_center(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="nms_kernel is 4"):
        find_instance_center(torch.zeros(1, 4, 4), nms_kernel=4)
    with pytest.raises(ValueError, match="needs one centre"):
        group_pixels(torch.zeros(0, 2), torch.zeros(2, 4, 4))


# --- targets ----------------------------------------------------------------------------------


def test_perfect_predictions_give_the_segmentation_back():
    ids, segments = scene_without_crowd()
    targets = generator()(ids, segments)
    found, centers = get_panoptic_segmentation(
        targets["sem_seg"].clamp(max=CLASSES)[None],  # 255 is a class of no pixel's segment
        targets["center"][None],
        targets["offset"],
        THINGS,
        DIVISOR,
        stuff_area=1,
        void_label=-1,
        threshold=0.9,
        top_k=10,
    )
    assert len(centers[0]) == 2
    expected = np.full_like(ids, CLASSES * DIVISOR)
    for number, label in ((10, 0), (11, 1000), (2000, 2001), (70000, 3001)):
        expected[ids == number] = label
    assert found[0].numpy().tolist() == expected.tolist()


def test_targets_of_a_scene():
    ids, segments = panoptic_scene()
    targets = generator(small_instance_area=300, small_instance_weight=3)(ids, segments)
    assert targets["sem_seg"][0, 0] == 255 and targets["sem_seg"][55, 10] == 3  # the crowd's class
    assert targets["center_points"] == [(13.5, 19.5), (39.5, 47.5)]
    # 13.5 and 19.5 are rounded to even numbers, where the Gaussian stands.
    assert targets["center"][14, 20] == 1.0 and (targets["center"] == 1).sum() == 2
    assert targets["center"][14, 22].item() == pytest.approx(np.exp(-0.5), rel=1e-6)
    assert targets["offset"][:, 8, 10].tolist() == [5.5, 9.5]
    assert targets["offset"][:, 5, 5].tolist() == targets["offset"][:, 55, 10].tolist() == [0, 0]
    weights = {name: targets[f"{name}_weights"] for name in ("sem_seg", "center", "offset")}
    assert weights["center"].shape == weights["offset"].shape == (1, SIDE, SIDE)
    # A small thing, a large one, stuff, the crowd, no segment.
    places = [(10, 12), (40, 40), (25, 10), (55, 10), (0, 0)]
    assert [weights["sem_seg"][p].item() for p in places] == [3, 1, 1, 1, 1]
    assert [weights["center"][0][p].item() for p in places] == [1, 1, 1, 0, 0]
    assert [weights["offset"][0][p].item() for p in places] == [1, 1, 1, 0, 0]


def test_options_take_stuff_and_crowds_out_of_the_targets():
    ids, segments = panoptic_scene()
    options = {"ignore_stuff_in_offset": True, "ignore_crowd_in_semantic": True}
    targets = generator(**options)(ids, segments)
    assert targets["sem_seg"][55, 10] == 255
    assert targets["offset_weights"][0, 25, 10] == 0 and targets["offset_weights"][0, 10, 12] == 1


def test_overlapping_gaussians_keep_the_larger_value_and_end_at_the_border():
    ids = np.zeros((8, 8), np.int32)
    ids[0, 0], ids[0, 3] = 1, 2
    segments = [{"id": i, "category_id": 2, "iscrowd": 0} for i in (1, 2, 3)]
    targets = generator(sigma=1)(ids, segments)
    assert targets["center_points"] == [(0.0, 0.0), (0.0, 3.0)]  # segment 3 was cropped away
    near = [np.exp(-0.5 * min(x, abs(3 - x)) ** 2) for x in range(8)]
    assert targets["center"][0].tolist() == pytest.approx(near, rel=1e-6)
    assert generator()(ids, [])["center"].sum() == 0


def test_colours_are_digits_to_the_base_256():
    colors = np.array([[[1, 2, 3], [255, 0, 0]]], np.uint8)
    assert panoptic_ids(colors).tolist() == [[1 + 2 * 256 + 3 * 65536, 255]]


# --- the model --------------------------------------------------------------------------------


@pytest.mark.usefixtures("metadata")
def test_training_on_one_batch_lowers_every_loss():
    model = small_model(PANOPTIC, MODEL__SEM_SEG_HEAD__LOSS_TOP_K=1.0)
    inputs = [training_input()]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    history = []
    for _ in range(12):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    first, last = history[0], history[-1]
    assert set(first) == {"loss_sem_seg", "loss_center", "loss_offset"}
    assert all(last[name] < 0.95 * first[name] for name in first), history


@pytest.mark.usefixtures("metadata")
def test_separable_heads_have_the_names_of_published_weights():
    model = small_model(PANOPTIC_SEPARABLE)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    for head, width in (("sem_seg_head.head", 8), ("ins_embed_head.offset_head", 8)):
        assert shapes[f"{head}.depthwise.weight"] == (width, 1, 5, 5)
        assert shapes[f"{head}.pointwise.weight"] == (8, width, 1, 1)
    assert shapes["ins_embed_head.center_head.0.weight"] == (8, 8, 3, 3)  # as in the plain model
    sum(model([training_input()] * 2).values()).backward()


@pytest.mark.usefixtures("metadata")
def test_losses_of_a_batch_without_things_are_finite():
    model = small_model(PANOPTIC)
    ids, segments = panoptic_scene()
    targets = generator(ignore_stuff_in_offset=True)(np.zeros_like(ids), segments)
    losses = model([{"image": torch.rand(3, SIDE, SIDE) * 255, **targets}] * 2)
    assert losses["loss_center"] == losses["loss_offset"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


class Perfect(nn.Module):
    """Heads that know the scene, at the size of the network's input."""

    def __init__(self):
        super().__init__()
        targets = training_input(scene_without_crowd)
        labels = targets["sem_seg"] % 255  # what has no label is of class 0
        self.scores = nn.functional.one_hot(labels, CLASSES).permute(2, 0, 1)[None] * 9.0
        self.center, self.offset = targets["center"][None, None], targets["offset"][None]


class PerfectClasses(Perfect):
    def forward(self, features):
        return self.scores, {}


class PerfectThings(Perfect):
    def forward(self, features):
        return self.center, self.offset, {}, {}


@pytest.mark.usefixtures("metadata")
def test_offsets_are_scaled_with_the_image():
    model = small_model(PANOPTIC, MODEL__PANOPTIC_DEEPLAB__CENTER_THRESHOLD=0.5).eval()
    model.sem_seg_head, model.ins_embed_head = PerfectClasses(), PerfectThings()
    image = training_input()["image"]
    with torch.no_grad():
        (plain,) = model([{"image": image}])
        (large,) = model([{"image": image, "height": 2 * SIDE, "width": 3 * SIDE}])
    small_ids = plain["panoptic_seg"][0]
    assert set(small_ids.unique().tolist()) >= {0, 1000, 2001, 3001}
    grown = small_ids.repeat_interleave(2, 0).repeat_interleave(3, 1)
    assert (large["panoptic_seg"][0] == grown).float().mean() > 0.97
    assert plain["panoptic_seg"][1] is None


@pytest.mark.usefixtures("metadata")
def test_things_are_instances_with_scores_and_boxes():
    model = small_model(PANOPTIC, MODEL__PANOPTIC_DEEPLAB__CENTER_THRESHOLD=0.5).eval()
    model.sem_seg_head, model.ins_embed_head = PerfectClasses(), PerfectThings()
    with torch.no_grad():
        (result,) = model([{"image": training_input()["image"]}])
    instances = result["instances"]
    ids = result["panoptic_seg"][0]
    assert instances.pred_classes.tolist() == [2, 3]
    assert instances.pred_boxes.tensor[0].tolist() == [10, 8, 30, 20]
    assert torch.equal(instances.pred_masks[0], ids == 2001)
    # e^9 against three other classes with e^0; the mean of rows 8 to 19 is cut to 13.
    class_score = 1 / (1 + 3 * np.exp(-9.0))
    center_score = np.exp(-0.5 * (1 + 1) / 2**2)
    assert instances.scores[0].item() == pytest.approx(class_score * center_score, rel=1e-5)


@pytest.mark.usefixtures("metadata")
def test_an_image_without_things_has_no_instances():
    model = small_model(PANOPTIC, MODEL__PANOPTIC_DEEPLAB__CENTER_THRESHOLD=0.99).eval()
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, SIDE, SIDE)}])
    assert len(result["instances"]) == 0 and result["instances"].pred_masks.shape[1:] == (
        SIDE,
        SIDE,
    )
    model.benchmark_network_speed = True
    assert model([{"image": torch.zeros(3, SIDE, SIDE)}]) == []


@pytest.mark.usefixtures("metadata")
def test_the_fast_form_has_the_same_outputs():
    model = small_model(PANOPTIC).eval()
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    inputs = [{"image": training_input()["image"]}]
    with torch.no_grad():
        expected = model(inputs)[0]["sem_seg"]
        assert_close(speed_up(model)(inputs)[0]["sem_seg"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("metadata")
def test_missing_targets_and_contradictions_are_named():
    with pytest.raises(ValueError, match="needs 'center' in every input"):
        sample = training_input()
        del sample["center"]
        small_model(PANOPTIC)([sample])
    with pytest.raises(ValueError, match="set both to the same"):
        small_model(PANOPTIC, MODEL__PANOPTIC_DEEPLAB__USE_DEPTHWISE_SEPARABLE_CONV=True)
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty"):
        small_model(PANOPTIC, DATASETS__TRAIN=())
    delattr(MetadataCatalog.get("tiny_panoptic"), "label_divisor")
    with pytest.raises(ValueError, match="'tiny_panoptic' lack .* label_divisor"):
        small_model(PANOPTIC)


# --- data, training by command ----------------------------------------------------------------


def test_the_mapper_moves_image_and_targets_alike(dataset):
    cfg = small_config(PANOPTIC, INPUT__CROP__SIZE=[48, 40], INPUT__MIN_SIZE_TRAIN=(SIDE,))
    before = dict(dataset[0])
    ids, _ = panoptic_scene()
    np.random.seed(3)
    for _ in range(3):
        sample = PanopticDeeplabDatasetMapper(cfg)(dataset[0])
        assert dataset[0] == before
        assert sample["image"].shape == (3, 48, 40) and sample["image"].dtype == torch.uint8
        # The scene's colours are 37 times the digits of the ids.
        red = (ids == 70000) * (70000 % 256 * 37 % 256)
        is_large_thing = sample["image"][0] == red.max()
        assert torch.equal(is_large_thing & (sample["sem_seg"] == 3), is_large_thing)
        offset = sample["offset"][:, sample["sem_seg"] == 2]
        if offset.numel():
            assert offset.mean(dim=1).abs().max() < 1e-4  # a centre is in the middle


def test_records_that_do_not_fit_are_named(dataset, tmp_path):
    mapper = PanopticDeeplabDatasetMapper(small_config(PANOPTIC))
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    with pytest.raises(SizeMismatchError, match="small.png' is 8x8 pixels and its image"):
        mapper({**dataset[0], "pan_seg_file_name": str(tmp_path / "small.png")})
    with pytest.raises(ValueError, match="no 'pan_seg_file_name'"):
        mapper({"file_name": dataset[0]["file_name"]})


@pytest.mark.usefixtures("process_as_before")
def test_the_command_line_trains_evaluates_and_predicts(dataset, tmp_path):
    cfg = small_config(PANOPTIC, SOLVER__MAX_ITER=2, SOLVER__WARMUP_ITERS=0)
    config, output = str(tmp_path / "config.yaml"), tmp_path / "out"
    (tmp_path / "config.yaml").write_text(cfg.dump())
    run_train(TrainOptions(config=config, output=output, device="cpu"))
    weights = str(output / "model_final.pth")
    results = run_evaluate(
        TrainOptions(config=config, weights=weights, output=output, device="cpu")
    )
    assert 0 <= results["panoptic_seg"]["PQ"] <= 100
    summary = run_predict(
        PredictOptions(
            inputs=[dataset[0]["file_name"]],
            config=config,
            weights=weights,
            output=tmp_path / "found",
            device="cpu",
        )
    )
    assert summary.images == 1 and (tmp_path / "found" / "0.png").exists()
