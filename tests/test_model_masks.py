"""Mask and frame go together: what a perfect head would give, whatever the enlargement and the resizing."""

from collections.abc import Sequence

import pytest
import torch
from detector_toy import disks, squares, toy_detector
from torch import Tensor
from torchvision.ops import roi_align

from maskrcnn.config import UserError
from maskrcnn.model.detector import Detector
from maskrcnn.model.images import compute_input_size, resize_instances
from maskrcnn.structures.instances import Instances

ENLARGED = [(1.0, 0.0), (1.5, 0.0), (1.0, 4.0), (1.3, 2.0)]


def make_perfect(detector: Detector, truths: Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes are the truths' and masks what the loss would teach, in the frame of the network's image."""
    seen = resize_instances(truths, compute_input_size(truths.size, detector.config.image))
    perfect = Instances(seen.size, seen.boxes, seen.labels, torch.linspace(1, 0.5, len(seen)))
    head = detector.mask_head
    assert head is not None and detector.box_head is not None
    targets = head.targets

    def predict(_features: Sequence[Tensor], boxes: Tensor, _images: Tensor, _labels: Tensor) -> Tensor:
        return targets(boxes, [torch.arange(len(boxes))], [seen])

    monkeypatch.setattr(detector.box_head, "detect", lambda *_: [perfect])
    monkeypatch.setattr(head, "predict", predict)


@pytest.mark.parametrize(("enlarge", "border"), ENLARGED)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image__resize": "minmax", "image__min_size": 190, "image__max_size": 999},
        {"image__resize": "square", "image__max_size": 75},
        {"mask__soft_targets": False},
    ],
    ids=["as it is", "twice as large", "smaller", "hard targets"],
)
def test_a_perfect_head_gives_back_the_truth(
    monkeypatch: pytest.MonkeyPatch, enlarge: float, border: float, changes: dict[str, object]
) -> None:
    image, truths = disks((96, 112), 6, seed=4)
    detector = toy_detector(mask__mask_size=28, mask__box_enlarge=enlarge, mask__box_border=border, **changes).eval()
    make_perfect(detector, truths, monkeypatch)
    (found,) = detector([image])
    assert found.size == (96, 112) and found.masks is not None and truths.masks is not None
    torch.testing.assert_close(found.boxes, truths.boxes, rtol=0, atol=0.02)
    rows, columns, iou = found.masks.iou(truths.masks)
    least = 0.72 if "image__resize" in changes else 0.93  # nearest pixels cost small objects a part
    assert iou[rows == columns].min() > least and int((rows == columns).sum()) == 6


@pytest.mark.parametrize(("enlarge", "border"), ENLARGED)
@pytest.mark.parametrize("aligned", [True, False])
def test_targets_are_the_true_masks_seen_through_the_frames(enlarge: float, border: float, aligned: bool) -> None:
    _, truths = disks((64, 96), 4, seed=1)
    detector = toy_detector(mask__box_enlarge=enlarge, mask__box_border=border, box__aligned=aligned)
    head = detector.mask_head
    assert head is not None and truths.masks is not None
    boxes = truths.boxes[[2, 0, 1]] + torch.tensor([-0.7, 0.4, 1.2, 0.1])
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    centre, half = boxes[:, :2] + half, torch.maximum(half * enlarge, half + border)
    frames = torch.cat([torch.tensor([[2.0], [0], [1]]), centre - half, centre + half], dim=1)
    levels = torch.stack([truths.masks[i].crop(0, 0, 64, 96).to_dense()[0] for i in range(4)])[:, None].float()
    hard = toy_detector(mask__soft_targets=False, mask__box_enlarge=enlarge, mask__box_border=border).mask_head
    assert hard is not None
    squares_only = Instances.from_masks(type(truths.masks).from_dense(levels[:, 0]), truths.labels)
    found = head.targets(boxes, [torch.tensor([2, 0, 1])], [squares_only])
    wanted = roi_align(levels, frames, 14, 1.0, -1, aligned)[:, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_hard_targets_are_zero_or_one() -> None:
    _, truths = disks((64, 96), 4)
    head = toy_detector(mask__soft_targets=False).mask_head
    assert head is not None
    targets = head.targets(truths.boxes, [torch.arange(4)], [truths])
    assert set(targets.unique().tolist()) == {0.0, 1.0}


def test_images_without_truths_or_masks_have_no_targets() -> None:
    _, truths = disks((64, 96), 2)
    head = toy_detector().mask_head
    assert head is not None
    nothing = torch.zeros(0, dtype=torch.int64)
    targets = head.targets(truths.boxes, [nothing, torch.arange(2)], [Instances.empty((64, 96)), truths])
    assert targets.shape == (2, 14, 14)


def test_masks_of_many_detections_are_predicted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = toy_detector().eval()
    head = detector.mask_head
    assert head is not None
    image, truths = disks((64, 96), 7)
    features, zeros = detector.features([image])[:3], torch.zeros(7, dtype=torch.int64)
    whole = head.predict(features, truths.boxes, zeros, truths.labels)
    monkeypatch.setattr("maskrcnn.model.mask_head.CHUNK", 3)
    torch.testing.assert_close(head.predict(features, truths.boxes, zeros, truths.labels), whole)
    assert whole.shape == (7, 14, 14) and 0 <= float(whole.min()) <= float(whole.max()) <= 1


def test_each_class_has_its_own_mask_unless_agnostic() -> None:
    for agnostic in (False, True):
        detector = toy_detector(num_classes=2, mask__class_agnostic=agnostic).eval()
        head = detector.mask_head
        assert head is not None
        torch.nn.init.normal_(head.logits.weight, std=1.0)
        image, truths = disks((64, 96), 1)
        zero = torch.zeros(1, dtype=torch.int64)
        one, two = (head(detector.features([image]), truths.boxes, zero, zero + label) for label in (1, 2))
        assert torch.equal(one, two) == agnostic


def test_the_mask_loss_is_that_of_the_positives_alone() -> None:
    detector = toy_detector(box__rois_per_image=8)
    image, truths = disks((64, 96), 2)
    boxes = torch.cat([truths.boxes, torch.tensor([[0.0, 0, 5, 5]])])
    proposals = [Instances((64, 96), boxes, torch.ones(3, dtype=torch.int64))]
    assert detector.box_head is not None and detector.mask_head is not None
    features = detector.features([image])
    samples = detector.box_head.sample(features, proposals, [truths])
    loss = detector.mask_head.loss(features, samples, [truths], per_sample=True)["loss_mask"]
    positive = samples.labels > 0
    chosen, labels = samples.boxes[positive], samples.labels[positive]
    logits = detector.mask_head(features, chosen, torch.zeros(len(chosen)).long(), labels)
    targets = detector.mask_head.targets(chosen, [samples.targets[positive]], [truths])
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(loss, wanted)


def test_a_limit_on_masks_in_the_loss() -> None:
    truths = squares((64, 96), [[i * 10, 10, i * 10 + 8, 20] for i in range(8)])
    for limit, wanted in ((0, 8), (3, 3)):
        detector = toy_detector(mask__rois_per_image=limit, box__rois_per_image=64)
        assert detector.box_head is not None and detector.mask_head is not None
        features = detector.features([torch.rand(3, 64, 96)])
        samples = detector.box_head.sample(features, [Instances.empty((64, 96))], [truths])
        assert len(detector.mask_head._find_positives(samples, 0, truths)) == wanted


def test_an_odd_mask_size_is_refused() -> None:
    with pytest.raises(UserError, match="mask_size must be even"):
        toy_detector(mask__mask_size=15)
