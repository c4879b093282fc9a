import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator
from detectron2.evaluation.cityscapes_metrics import CLASS_IDS, INSTANCE_CLASSES
from detectron2.structures import Instances

HEIGHT, WIDTH = 120, 200
STUFF = [label for label in CLASS_IDS if label not in INSTANCE_CLASSES]
THINGS = list(INSTANCE_CLASSES)
THING_NAMES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]


@pytest.fixture
def city(tmp_path):
    """Registers a dataset, and writes the ground truth of an image; returns its record."""
    name = f"city_{tmp_path.name}"
    MetadataCatalog.get(name).set(gt_dir=str(tmp_path), thing_classes=THING_NAMES)

    def write(number, labels, instances):
        town = ("aachen", "bonn")[number % 2]
        stem = f"{town}_{number:06d}_000019"
        (tmp_path / town).mkdir(exist_ok=True)
        for kind, pixels, dtype in (
            ("labelIds", labels, np.uint8),
            ("instanceIds", instances, np.uint16),
        ):
            picture = Image.fromarray(pixels.astype(dtype))
            picture.save(tmp_path / town / f"{stem}_gtFine_{kind}.png")
        return {"file_name": f"images/{town}/{stem}_leftImg8bit.png"}

    yield name, write
    MetadataCatalog.remove(name)


def random_scene(random, number):
    """Label map, instance map, and (id, score, mask) predictions of an image."""
    yy, xx = np.mgrid[0:HEIGHT, 0:WIDTH]
    labels = np.array(STUFF)[(yy // 30 * 3 + xx // 40 + number) % len(STUFF)]
    labels[:6], labels[-8:] = 0, 4  # not evaluated
    instances = labels.copy()
    predictions = []
    for k in range(9):
        label = int(random.choice([*THINGS, 29, 30]))  # a caravan and a trailer are not evaluated
        h, w = random.randint(6, 40), random.randint(6, 50)
        y, x = random.randint(0, HEIGHT - h), random.randint(0, WIDTH - w)
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[y : y + h, x : x + w] = True
        labels[mask] = label
        instances[mask] = label if random.uniform() < 0.2 else 1000 * label + k  # a group or one
        for _ in range(random.randint(0, 4)):
            dy, dx = random.randint(-3, 4, 2)
            guess = label if label in THINGS and random.uniform() < 0.9 else random.choice(THINGS)
            score = float(random.choice([0.1, 0.3, 0.5, 0.5, 0.7, 0.9]))
            predictions.append((int(guess), score, np.roll(mask, (dy, dx), (0, 1))))
    for _ in range(3):
        h, w = random.randint(3, 30, 2)
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[:h, :w] = True
        predictions.append((int(random.choice(THINGS)), float(random.uniform()), mask))
    predictions.append((24, 0.5, np.zeros((HEIGHT, WIDTH), dtype=bool)))
    return labels, instances, predictions


def random_labels(random, labels):
    """A predicted map of train ids: the truth shifted, with noise."""
    train_id = {label: number for number, label in enumerate(CLASS_IDS)}
    predicted = np.vectorize(lambda label: train_id.get(label, 3))(np.roll(labels, (2, 1), (0, 1)))
    noise = random.uniform(size=labels.shape) < 0.2
    predicted[noise] = random.randint(0, 19, noise.sum())
    return predicted


def instances_of(predictions):
    instances = Instances((HEIGHT, WIDTH))
    instances.scores = torch.tensor([p[1] for p in predictions], dtype=torch.float64)
    instances.pred_classes = torch.tensor([THINGS.index(p[0]) for p in predictions])
    masks = np.array([p[2] for p in predictions]).reshape(-1, HEIGHT, WIDTH).astype(bool)
    instances.pred_masks = torch.from_numpy(masks)
    return instances


def scores_of(predicted):
    return torch.nn.functional.one_hot(torch.from_numpy(predicted), 19).permute(2, 0, 1).float()


# What cityscapesscripts 2.3.0 says of four random scenes, by seed.
REFERENCE = {
    0: {
        "segm": {"AP": 7.756072631072632, "AP50": 21.80976430976431},
        "sem_seg": {
            "IoU": 46.77216636191067,
            "iIoU": 46.57207631517182,
            "IoU_sup": 55.54065157085092,
            "iIoU_sup": 62.30488623807423,
        },
    },
    1: {
        "segm": {"AP": 23.9316829004329, "AP50": 53.536706349206355},
        "sem_seg": {
            "IoU": 50.59017554100891,
            "iIoU": 62.75906729128575,
            "IoU_sup": 57.51449249280351,
            "iIoU_sup": 66.48120910821493,
        },
    },
}


@pytest.mark.parametrize("seed", sorted(REFERENCE))
def test_convention_scores_are_those_of_cityscapesscripts(city, seed):
    name, write = city
    random = np.random.RandomState(seed)
    instance_evaluator, semantic_evaluator = (
        kind(name) for kind in (CityscapesInstanceEvaluator, CityscapesSemSegEvaluator)
    )
    for number in range(4):
        labels, instances, predictions = random_scene(random, number)
        record = write(number, labels, instances)
        instance_evaluator.process([record], [{"instances": instances_of(predictions)}])
        predicted = random_labels(random, labels)
        semantic_evaluator.process([record], [{"sem_seg": scores_of(predicted)}])
    results = {**instance_evaluator.evaluate(), **semantic_evaluator.evaluate()}
    for task, metrics in REFERENCE[seed].items():
        assert results[task] == pytest.approx(metrics, abs=1e-9)


class TestInstances:
    def scene(self):
        labels = np.full((HEIGHT, WIDTH), 7)
        labels[10:30, 10:40] = 26
        labels[50:90, 50:100] = 26
        instances = labels.copy()
        instances[10:30, 10:40] = 26000
        instances[50:90, 50:100] = 26001
        masks = [instances == 26000, instances == 26001]
        return labels, instances, masks

    def score(self, city, predictions, edit=None):
        name, write = city
        labels, instances, _ = self.scene()
        if edit is not None:
            edit(labels, instances)
        evaluator = CityscapesInstanceEvaluator(name)
        record = write(0, labels, instances)
        evaluator.process([record], [{"instances": instances_of(predictions)}])
        return evaluator.evaluate()["segm"]

    def test_perfect_masks_score_100(self, city):
        masks = self.scene()[2]
        metrics = self.score(city, [(26, 0.9, masks[0]), (26, 0.8, masks[1])])
        assert metrics == {"AP": pytest.approx(100), "AP50": pytest.approx(100)}

    def test_without_predictions_the_score_is_zero(self, city):
        assert self.score(city, []) == {"AP": 0, "AP50": 0}

    def test_a_mask_on_what_is_not_evaluated_is_no_false_alarm(self, city):
        masks = self.scene()[2]
        extra = np.zeros((HEIGHT, WIDTH), dtype=bool)
        extra[100:120, 100:150] = True

        def void(labels, instances):
            labels[extra] = instances[extra] = 0

        predictions = [(26, 0.7, masks[0]), (26, 0.6, masks[1]), (26, 0.9, extra)]
        assert self.score(city, predictions, edit=void)["AP"] == pytest.approx(100)
        assert self.score(city, predictions)["AP"] < 90

    def test_small_instances_are_not_required(self, city):
        def shrink(labels, instances):
            labels[10:30, 10:40] = instances[10:30, 10:40] = 7
            labels[10:19, 10:20] = 26
            instances[10:19, 10:20] = 26000

        masks = self.scene()[2]
        assert self.score(city, [(26, 0.9, masks[1])], edit=shrink)["AP"] == pytest.approx(100)

    def test_classes_that_do_not_occur_are_no_part_of_the_mean(self, city):
        masks = self.scene()[2]
        found = [(26, 0.9, masks[0]), (26, 0.8, masks[1]), (24, 0.99, masks[0])]
        assert self.score(city, found)["AP"] == pytest.approx(100)


class TestSemantic:
    def test_pixels_that_are_not_evaluated_do_not_count(self, city):
        name, write = city
        labels = np.full((HEIGHT, WIDTH), 7)
        labels[:, 100:] = 11
        labels[:20] = 0
        evaluator = CityscapesSemSegEvaluator(name)
        predicted = np.where(labels == 11, 2, 0)
        predicted[:20] = 5
        evaluator.process([write(0, labels, labels)], [{"sem_seg": scores_of(predicted)}])
        metrics = evaluator.evaluate()["sem_seg"]
        assert metrics["IoU"] == metrics["IoU_sup"] == 100

    def test_runs_start_from_nothing(self, city):
        name, write = city
        labels = np.full((HEIGHT, WIDTH), 7)
        record = write(0, labels, labels)
        evaluator = CityscapesSemSegEvaluator(name)
        for predicted, expected in ((1, 0.0), (0, 100.0)):
            evaluator.reset()
            picture = np.full((HEIGHT, WIDTH), predicted)
            evaluator.process([record], [{"sem_seg": scores_of(picture)}])
            assert evaluator.evaluate()["sem_seg"]["IoU"] == expected

    def test_images_must_be_named_as_those_of_cityscapes(self, city):
        evaluator = CityscapesSemSegEvaluator(city[0])
        output = {"sem_seg": torch.zeros(19, 4, 4)}
        with pytest.raises(ValueError, match=r"\*_leftImg8bit\.png; this is x\.jpg"):
            evaluator.process([{"file_name": "x.jpg"}], [output])
