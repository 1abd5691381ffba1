"""The detector as a whole: losses, detections, odd inputs, and that an image's result is its own."""

import pytest
import torch
from detector_toy import HEADS, LOSSES, disks, squares, toy_detector
from torch import Tensor

from maskrcnn.config import UserError
from maskrcnn.model.config import DetectorConfig
from maskrcnn.model.detector import Detector
from maskrcnn.structures.instances import Instances


def losses_of(detector: Detector, images: list[Tensor], truths: list[Instances]) -> dict[str, Tensor]:
    losses = detector(images, truths)
    assert set(losses) == LOSSES[detector.head]
    for name, loss in losses.items():
        assert loss.shape == () and loss.dtype == torch.float32 and torch.isfinite(loss), name
    return losses


def assert_trains(detector: Detector, images: list[Tensor], truths: list[Instances]) -> dict[str, Tensor]:
    """Losses are finite and reach every parameter."""
    losses = losses_of(detector, images, truths)
    detector.zero_grad()
    sum(losses.values()).backward()  # type: ignore[union-attr]
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    return losses


def assert_sound(found: Instances, size: tuple[int, int], head: str) -> None:
    """What every result promises."""
    assert tuple(found.size) == size and found.scores is not None
    assert found.boxes.dtype == torch.float32 and found.scores.dtype == torch.float32
    assert (found.scores.diff() <= 0).all() and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (found.boxes >= 0).all() and (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert (found.boxes[:, 2] <= size[1] + 1e-3).all() and (found.boxes[:, 3] <= size[0] + 1e-3).all()
    assert (found.labels >= 1).all() and not found.ignore.any()
    assert (found.masks is not None) == (head == "mask_rcnn")


BATCH = [disks((64, 96), 4, seed=1), disks((80, 64), 3, seed=2)]
IMAGES, TRUTHS = [image for image, _ in BATCH], [truths for _, truths in BATCH]


# losses and detections


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("training", [True, False])
def test_losses_reach_every_parameter_and_both_modes_detect(head: str, training: bool) -> None:
    detector = toy_detector(head, box__min_score=0.0).train(training)
    losses = assert_trains(detector, IMAGES, TRUTHS)
    assert all(loss > 0 for loss in losses.values())
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in detector.rpn.parameters())
    found = detector(IMAGES)
    assert detector.training == training and len(found) == 2
    for result, truths in zip(found, TRUTHS, strict=True):
        assert len(result) > 0
        assert_sound(result, truths.size, head)
        assert not result.boxes.requires_grad


@pytest.mark.parametrize("head", HEADS)
def test_images_without_objects_train(head: str) -> None:
    detector = toy_detector(head)
    nothing = [Instances.empty((64, 96)), Instances.empty((80, 64), with_masks=True)]
    losses = assert_trains(detector, IMAGES, nothing)
    assert losses["loss_rpn_box_reg"] == 0 and losses["loss_objectness"] > 0
    assert_trains(detector, IMAGES, [TRUTHS[0], nothing[1]])
    assert_trains(detector, IMAGES, [nothing[0], TRUTHS[1]])


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn"])
def test_no_detections_are_empty_instances(head: str) -> None:
    found = toy_detector(head, box__min_score=1.0).eval()(IMAGES)
    for result, truths in zip(found, TRUTHS, strict=True):
        assert len(result) == 0
        assert_sound(result, truths.size, head)


def test_no_images_no_results() -> None:
    assert toy_detector().eval()([]) == []


@pytest.mark.parametrize("head", HEADS)
def test_one_pixel_objects_train_and_are_learned_as_boxes(head: str) -> None:
    truths = squares((64, 96), [[5, 5, 6, 6], [60, 40, 61, 41], [95, 63, 96, 64], [0, 0, 1, 1]])
    losses = assert_trains(toy_detector(head), IMAGES[:1], [truths])
    assert losses["loss_rpn_box_reg"] > 0  # each forces an anchor


def test_two_thousand_objects_train() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = (torch.rand(2000, 2, generator=generator) * 250).long()
    boxes = torch.cat([corner, corner + 2 + torch.randint(5, (2000, 2), generator=generator)], dim=1)
    detector = toy_detector(backbone__finest_stride=4, backbone__num_levels=2, rpn__anchor_sizes=((8.0,), (16.0,)))
    assert_trains(detector, [torch.rand(3, 256, 256)], [squares((256, 256), boxes.clamp(max=256).tolist())])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (3, 70)])
def test_images_smaller_than_the_largest_stride_train_and_detect(head: str, size: tuple[int, int]) -> None:
    detector = toy_detector(head, box__min_score=0.0)
    truths = squares(size, [[0, 0, 1, 1]])
    assert_trains(detector, [torch.rand(3, *size)], [truths])
    assert_sound(detector([torch.rand(3, *size)])[0], size, head)
    assert_sound(detector.eval()([torch.rand(3, *size)])[0], size, head)


def test_a_flat_image_trains_and_detects() -> None:
    detector = toy_detector(box__min_score=0.0)
    assert_trains(detector, [torch.zeros(3, 64, 64)], [squares((64, 64), [[9, 9, 20, 20]])])
    assert_sound(detector.eval()([torch.ones(3, 64, 64)])[0], (64, 64), "mask_rcnn")


def test_degenerate_truths_are_no_targets() -> None:
    """A mask of no pixels has a box of zeros; it must not become a target."""
    truths = Instances((64, 96), torch.tensor([[0.0, 0, 0, 0], [9, 9, 5, 20]]), torch.ones(2, dtype=torch.int64))
    losses = assert_trains(toy_detector("faster_rcnn"), IMAGES[:1], [truths])
    assert losses["loss_rpn_box_reg"] == 0 and losses["loss_box_reg"] == 0


def test_ignored_objects_alone_are_no_targets() -> None:
    truths = squares((64, 96), [[10, 10, 20, 20], [40, 30, 60, 50]], ignore=[True, True])
    losses = assert_trains(toy_detector(), IMAGES[:1], [truths])
    assert losses["loss_rpn_box_reg"] == losses["loss_box_reg"] == losses["loss_mask"] == 0
    everywhere = squares((64, 96), [[0, 0, 96, 64]], ignore=[True])
    losses = losses_of(toy_detector("faster_rcnn"), IMAGES[:1], [everywhere])
    assert losses["loss_classifier"] == 0  # every proposal lies inside


# several classes and other ways to build it


@pytest.mark.parametrize(
    "changes",
    [
        {"box__class_agnostic": True, "mask__class_agnostic": True},
        {"box__hard_negatives": True},
        {"rpn__focal_loss": True},
        {"per_sample_loss": False},
        {"rpn__anchor_stride": 2},
        {"backbone__pool_level": True, "rpn__anchor_sizes": ((8.0,), (16.0,), (32.0,), (64.0,))},
        {"backbone__norm": "group", "backbone__fpn_norm": True, "mask__norm": True},
        {"box__sampling_ratio": 0, "mask__sampling_ratio": 0, "box__aligned": False, "mask__soft_targets": False},
        {"mask__rois_per_image": 2, "rpn__forced_ties": "nearest", "rpn__anchor_ratios": (1.0,)},
        {"rpn__smooth_l1_beta": 0.0, "box__smooth_l1_beta": 0.0, "box__append_targets": False},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_every_way_to_build_it_trains_and_detects(changes: dict[str, object]) -> None:
    detector = toy_detector(num_classes=3, box__min_score=0.0, **changes)
    truths = [Instances(t.size, t.boxes, torch.arange(len(t)) % 3 + 1, masks=t.masks) for t in TRUTHS]
    assert_trains(detector, IMAGES, truths)
    for result, image in zip(detector.eval()(IMAGES), IMAGES, strict=True):
        assert_sound(result, (image.shape[1], image.shape[2]), "mask_rcnn")
        assert int(result.labels.max()) <= 3


def test_proposals_of_any_head_are_the_rpns() -> None:
    rpn, whole = toy_detector("rpn").eval(), toy_detector("mask_rcnn").eval()
    whole.backbone.load_state_dict(rpn.backbone.state_dict())
    whole.rpn.load_state_dict(rpn.rpn.state_dict())
    for proposals, detections in zip(whole.propose(IMAGES), rpn(IMAGES), strict=True):
        assert torch.equal(proposals.boxes, detections.boxes) and set(proposals.labels.tolist()) == {1}
        assert len(proposals) <= 60


def test_features_have_the_strides_that_the_configuration_names() -> None:
    detector = toy_detector(backbone__finest_stride=4).eval()
    with torch.no_grad():
        assert [tuple(x.shape) for x in detector.features(IMAGES)] == [(2, 16, 20, 24), (2, 16, 10, 12), (2, 16, 5, 6)]


# the same image, the same result


def assert_close(found: Instances, wanted: Instances) -> None:
    assert len(found) == len(wanted) and found.scores is not None and wanted.scores is not None
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-5)
    assert torch.equal(found.labels, wanted.labels)
    if len(found) and found.masks is not None and wanted.masks is not None:
        assert (found.masks.areas() - wanted.masks.areas()).abs().max() <= 1


SIZES = [(64, 96), (96, 64), (57, 91), (64, 96), (33, 40)]


def awake(head: str, **changes: object) -> Detector:
    """Untrained, but far from indifferent: last layers scaled until scores and boxes spread."""
    detector = toy_detector(head, box__min_score=0.05, **changes).eval()
    wanted = {"rpn.objectness": 1.0, "rpn.deltas": 0.3, "box_head.classes": 2.0, "box_head.deltas": 1.0}
    for name, spread in wanted.items():
        if head == "rpn" and name.startswith("box_head"):
            continue
        layer, seen = detector.get_submodule(name), []
        handle = layer.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output.std()))
        detector.detect(IMAGES[:1])
        handle.remove()
        with torch.no_grad():
            layer.weight *= spread / seen[0]
    return detector


@pytest.mark.parametrize("head", HEADS)
def test_an_images_result_does_not_depend_on_its_batch(head: str) -> None:
    detector = awake(head)
    images = [disks(size, 4, seed=i)[0] for i, size in enumerate(SIZES)]
    together = detector(images)
    backwards = detector(images[::-1])[::-1]
    for image, first, second in zip(images, together, backwards, strict=True):
        (alone,) = detector([image])
        assert len(alone) > 3
        assert_close(first, alone)
        assert_close(second, alone)


def test_padding_to_the_batch_would_make_it_depend() -> None:
    """Guards the test above: it sees the difference that padding makes."""
    detector = awake("faster_rcnn", image__pad_to_batch=True)
    images = [disks(size, 4, seed=i)[0] for i, size in enumerate(SIZES)]
    with pytest.raises(AssertionError):
        for image, result in zip(images, detector(images), strict=True):
            assert_close(result, detector([image])[0])


def test_evaluation_is_repeatable_and_leaves_the_model_alone() -> None:
    detector = awake("mask_rcnn")
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    first, second = detector(IMAGES), detector(IMAGES)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.boxes, b.boxes)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_uint8_and_float_images_give_the_same() -> None:
    detector = awake("mask_rcnn")
    for whole, scaled in zip(detector(IMAGES), detector([image.float() / 255 for image in IMAGES]), strict=True):
        assert_close(whole, scaled)


def test_logits_are_float32_under_autocast() -> None:
    detector = awake("mask_rcnn")
    seen: dict[str, torch.dtype] = {}
    assert detector.box_head is not None and detector.mask_head is not None
    named = {
        "objectness": detector.rpn.objectness,
        "anchor deltas": detector.rpn.deltas,
        "classes": detector.box_head.classes,
        "box deltas": detector.box_head.deltas,
        "mask": detector.mask_head.logits,
    }
    for name, layer in named.items():
        layer.register_forward_hook(lambda _m, _i, output, name=name: seen.__setitem__(name, output.dtype))
    detector.backbone.register_forward_hook(lambda _m, _i, output: seen.__setitem__("features", output[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector(IMAGES)
        losses = detector(IMAGES, TRUTHS)
    assert seen.pop("features") == torch.bfloat16
    assert seen == dict.fromkeys(named, torch.float32)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    assert all(result.boxes.dtype == torch.float32 and len(result) for result in found)


# refusals


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (64, 64, 3), (3, 0, 5), (2, 3, 64, 64)])
def test_an_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image.*\[3, H, W\]"):
        toy_detector("rpn")([torch.zeros(shape)])


def test_truths_of_another_size_are_refused_by_place() -> None:
    with pytest.raises(ValueError, match="image 1 "):
        toy_detector("rpn")(IMAGES, [TRUTHS[0], TRUTHS[0]])


def test_a_label_beyond_the_classes_is_refused() -> None:
    truths = [Instances(t.size, t.boxes, t.labels + 1, masks=t.masks) for t in TRUTHS]
    with pytest.raises(ValueError, match="image 0 .*label 2"):
        toy_detector(num_classes=1)(IMAGES, truths)


def test_masks_are_needed_for_masks() -> None:
    boxes_only = [Instances(t.size, t.boxes, t.labels) for t in TRUTHS]
    losses_of(toy_detector("faster_rcnn"), IMAGES, boxes_only)
    with pytest.raises(UserError, match="--head=faster_rcnn"):
        toy_detector("mask_rcnn")(IMAGES, boxes_only)


def test_an_unknown_head_and_no_classes_are_refused() -> None:
    with pytest.raises(UserError, match="unknown head 'mask'"):
        Detector(DetectorConfig(), 1, "mask")
    with pytest.raises(ValueError, match="num_classes"):
        Detector(DetectorConfig(), 0, "rpn")


@pytest.mark.gpu
@pytest.mark.parametrize("head", HEADS)
def test_a_gpu_gives_what_the_cpu_gives(head: str) -> None:
    detector = awake(head)
    wanted = detector(IMAGES)
    detector.to("cuda")
    images = [image.to("cuda") for image in IMAGES]
    for result, expected in zip(detector(images), wanted, strict=True):
        assert result.boxes.device.type == "cuda"
        assert_close(result.to("cpu"), expected)
    assert_trains(detector, images, [truths.to("cuda") for truths in TRUTHS])
    assert_trains(detector, images, [Instances.empty(truths.size, with_masks=True).to("cuda") for truths in TRUTHS])


def test_square_images_are_padded_to_one_square() -> None:
    detector = toy_detector("rpn", image__resize="square", image__max_size=64)
    small, wide = torch.rand(3, 20, 40), torch.rand(3, 64, 10)
    assert {tuple(m.shape[-2:]) for m in detector.features([small])[:1]} == {
        tuple(m.shape[-2:]) for m in detector.features([wide])[:1]
    }
    finest = detector.features([small])[0]
    assert finest.shape[-2] == finest.shape[-1] == 64 // detector.backbone.strides[0]
