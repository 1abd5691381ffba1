"""Our detectors in SAHI, whole and sliced, with masks; and SAHI's slices against our tiles."""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_toy import toy_detector
from peers_toy import CLASSES, draw_disks
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from maskrcnn.inference import as_torchvision
from maskrcnn.inference.config import ViewsConfig
from maskrcnn.inference.prediction import predict
from maskrcnn.inference.views import make_views
from maskrcnn.ops.boxes import box_iou
from maskrcnn.structures.instances import Instances
from maskrcnn.structures.masks import CroppedMasks

pytest.importorskip("sahi")
pytest.importorskip("pycocotools")
from pycocotools.coco import COCO
from sahi.models.base import DetectionModel
from sahi.models.torchvision import TorchVisionDetectionModel
from sahi.predict import get_prediction, get_sliced_prediction
from sahi.prediction import ObjectPrediction
from skimage.measure import label as label_components

Detect = Callable[[Sequence[Tensor]], list[Instances]]


class InSahi(DetectionModel):
    """A function of images `[3, H, W]` → `Instances`, as SAHI asks for it."""

    def set_model(self, model: Detect, **_: Any) -> None:
        self.model = model
        self.category_mapping = {str(i): name for i, name in enumerate(CLASSES)}

    def perform_inference(self, image: np.ndarray) -> None:
        self._original_predictions = self.model([torch.from_numpy(image.copy()).permute(2, 0, 1)])

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
    ) -> None:
        shift = shift_amount_list[0] if np.ndim(shift_amount_list) == 2 else shift_amount_list
        full = full_shape_list[0] if full_shape_list is not None and np.ndim(full_shape_list) == 2 else full_shape_list
        self._object_prediction_list_per_image = []
        for found in self._original_predictions:
            self._object_prediction_list_per_image.append([to_sahi(each, list(shift), full) for each in split(found)])


def split(found: Instances) -> list[Instances]:
    return [found[i : i + 1] for i in range(len(found))]


def to_sahi(one: Instances, shift: list[int], full: Any) -> ObjectPrediction:
    label = int(one.labels[0]) - 1
    segmentation = None if one.masks is None else one.masks.to_polygons()[0]
    return ObjectPrediction(
        bbox=one.boxes[0].tolist(),
        category_id=label,
        category_name=CLASSES[label],
        segmentation=segmentation,
        score=float(one.scores[0]),
        shift_amount=shift,
        full_shape=full or list(one.size),
    )


def find_components(images: Sequence[Tensor]) -> list[Instances]:
    """A detector that sees exactly: each bright component, its label by its gray level."""
    found = []
    for image in images:
        plane = image[0].long()
        components = torch.from_numpy(label_components(plane.numpy() > 100, connectivity=1))
        masks = CroppedMasks.from_label_image(components)
        first = [int(plane[components == i].max()) for i in range(1, len(masks) + 1)]
        labels = torch.tensor([1 + (value - 101) // 50 for value in first], dtype=torch.int64)
        each = Instances.from_masks(masks, labels)
        each.scores = torch.linspace(0.9, 0.6, max(2, len(each)))[: len(each)]
        found.append(each)
    return found


def make_picture(size: tuple[int, int] = (300, 400)) -> tuple[np.ndarray, Instances]:
    """A uint8 RGB picture with disks of radius 4 to 9 px on a grid, and what is in it."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(16, size[0] - 8, 28), torch.arange(16, size[1] - 8, 28), indexing="ij")
    centers = torch.stack([x.flatten(), y.flatten()], 1) + torch.rand(x.numel(), 2, generator=generator) * 6
    masks = draw_disks(centers, 4 + 5 * torch.rand(len(centers), generator=generator), size)
    labels = torch.randint(1, 4, (len(centers),), generator=generator)
    plane = torch.zeros(size, dtype=torch.uint8)
    for i, dense in enumerate(masks.to_dense()):
        plane[dense] = int(labels[i]) * 50 + 60
    return plane[..., None].expand(*size, 3).numpy().copy(), Instances.from_masks(masks, labels)


def model(detect: Detect = find_components, min_score: float = 0.3) -> InSahi:
    return InSahi(model=detect, confidence_threshold=min_score, device="cpu")


def assert_same_objects(boxes: Tensor, labels: Tensor, wanted: Instances, min_iou: float) -> None:
    """One detection for each object, none beside."""
    assert len(boxes) == len(wanted)
    iou, match = box_iou(wanted.boxes, boxes).max(dim=1)
    assert iou.min() >= min_iou and len(match.unique()) == len(wanted)
    assert torch.equal(labels[match], wanted.labels)


def read(result: Any) -> tuple[Tensor, Tensor]:
    boxes = torch.tensor([each.bbox.to_xyxy() for each in result.object_prediction_list], dtype=torch.float32)
    return boxes, torch.tensor([each.category.id + 1 for each in result.object_prediction_list])


def test_a_whole_image_gives_our_detections_unchanged() -> None:
    picture, _ = make_picture()
    result, (ours,) = get_prediction(picture, model(), verbose=0), find_components([to_image(picture)])
    boxes, labels = read(result)
    assert torch.equal(boxes, ours.boxes) and torch.equal(labels, ours.labels)
    assert [each.score.value for each in result.object_prediction_list] == ours.scores.tolist()
    for each, mask in zip(result.object_prediction_list, ours.masks.to_dense(), strict=True):
        theirs = torch.from_numpy(each.mask.bool_mask)  # pixels that the outline touches are inside
        around = max_pool2d(mask[None].float(), 3, stride=1, padding=1)[0] > 0
        assert not (mask & ~theirs).any() and not (theirs & ~around).any()


def to_image(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


@pytest.mark.parametrize("kind", ["GREEDYNMM", "NMM"])
def test_slices_find_every_object_and_tiles_find_it_once(kind: str) -> None:
    picture, targets = make_picture()
    sliced = get_sliced_prediction(
        picture, model(), 128, 128, 0.25, 0.25, perform_standard_pred=False, postprocess_type=kind, verbose=0
    )
    boxes, labels = read(sliced)
    iou, match = box_iou(targets.boxes, boxes).max(dim=1)
    assert iou.min() >= 0.85 and torch.equal(labels[match], targets.labels)
    assert len(boxes) - len(targets) <= 5  # pieces at the edges of slices that SAHI does not merge
    views = make_views(ViewsConfig(tile=128, overlap=0.25), targets.size, 1)
    tiled = predict(find_components, to_image(picture), views)
    assert_same_objects(tiled.boxes, tiled.labels, targets, min_iou=1.0)
    assert sorted(tiled.masks.areas().tolist()) == sorted(targets.masks.areas().tolist())


def test_sahi_is_a_detector_for_our_tiles() -> None:
    """The other way round: SAHI's predictions as `Instances`, put together by ours."""
    picture, targets = make_picture()
    sahi_model = model()

    def detect(images: Sequence[Tensor]) -> list[Instances]:
        results = [get_prediction(image.permute(1, 2, 0).numpy(), sahi_model, verbose=0) for image in images]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        return [from_sahi(result, size) for result, size in zip(results, sizes, strict=True)]

    views = make_views(ViewsConfig(tile=128, overlap=0.25), targets.size, 1)
    found = predict(detect, to_image(picture), views)
    assert_same_objects(found.boxes, found.labels, targets, min_iou=0.99)


def from_sahi(result: Any, size: tuple[int, int]) -> Instances:
    boxes, labels = read(result)
    scores = torch.tensor([each.score.value for each in result.object_prediction_list])
    return Instances(size, boxes.reshape(-1, 4), labels.long(), scores)


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn"])
def test_a_detector_of_ours_gives_its_detections_and_coco_results(head: str, tmp_path: Path) -> None:
    detector = toy_detector(head, num_classes=3, box__min_score=0.0, box__max_detections=8)
    picture, _ = make_picture((128, 160))
    (ours,) = detector([to_image(picture)])
    whole = get_prediction(picture, model(detector, min_score=0.0), verbose=0)
    boxes, labels = read(whole)
    torch.testing.assert_close(boxes, ours.boxes if head == "faster_rcnn" else ours.masks.boxes(), rtol=0, atol=1e-4)
    assert torch.equal(labels, ours.labels)
    sliced = get_sliced_prediction(picture, model(), 64, 64, 0.2, 0.2, verbose=0)
    entries = sliced.to_coco_predictions(image_id=7)
    truth = tmp_path / "truth.json"
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    images = [{"id": 7, "height": 128, "width": 160}]
    truth.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    with redirect_stdout(io.StringIO()):
        loaded = COCO(str(truth)).loadRes(entries)
    assert len(loaded.anns) == len(entries) > 0


@pytest.mark.parametrize("faint", [False, True])
def test_slices_of_ellipses_have_masks(tiny_ellipses: Path, faint: bool) -> None:
    """Also where slices cut masks to a line of pixels, or where masks were empty before they got their best pixel."""
    detector = toy_detector("mask_rcnn", num_classes=3, box__min_score=0.0, box__max_detections=30)
    if faint:
        torch.nn.init.constant_(detector.mask_head.logits.bias, -9.0)
    sahi_model = model(detector, min_score=0.0)
    pictures = sorted((tiny_ellipses / "test" / "images").glob("*.png"))
    assert pictures
    for path in pictures:
        with Image.open(path) as file:
            picture = np.asarray(file.convert("RGB"))
        for kind in ("NMS", "GREEDYNMM"):
            result = get_sliced_prediction(picture, sahi_model, 32, 32, 0.25, 0.25, postprocess_type=kind, verbose=0)
            assert len(result.object_prediction_list) > 0
            assert all(each.mask.bool_mask.any() for each in result.object_prediction_list)


def test_the_adapter_of_sahi_for_torchvision_takes_our_detector() -> None:
    picture, _ = make_picture((128, 160))
    detector = toy_detector("faster_rcnn", num_classes=3, box__min_score=0.0, box__max_detections=8)
    names = {str(label): name for label, name in enumerate(CLASSES, start=1)}
    sahi_model = TorchVisionDetectionModel(
        model=as_torchvision(detector), confidence_threshold=0.0, category_mapping=names, device="cpu"
    )
    boxes = [each.bbox.to_xyxy() for each in get_prediction(picture, sahi_model, verbose=0).object_prediction_list]
    torch.testing.assert_close(torch.tensor(boxes), detector([to_image(picture) / 255])[0].boxes, rtol=0, atol=1e-3)
    assert get_sliced_prediction(picture, sahi_model, 64, 64, 0.2, 0.2, verbose=0).object_prediction_list
