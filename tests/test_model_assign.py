"""Who is a target, which of them are sampled, and how losses are reduced."""

import math

import pytest
import torch
from detector_toy import disks, squares, toy_detector
from torch import Tensor
from torch.nn import functional as F

from maskrcnn.model.assign import assign_anchors, assign_proposals, find_targets, reduce_loss, sample
from maskrcnn.model.box_head import compute_sampling_log_odds
from maskrcnn.model.config import BoxHeadConfig, RPNConfig
from maskrcnn.model.rpn import RPNOutput, compute_image_index
from maskrcnn.ops.boxes import box_iou
from maskrcnn.ops.matching import all_anchors
from maskrcnn.ops.types import AnchorLevel
from maskrcnn.structures.boxes import encode_boxes
from maskrcnn.structures.instances import Instances

SIZE = (64, 64)
LEVEL = AnchorLevel((8.0, 8.0), (4.0, 4.0), torch.tensor([[16.0, 16.0]]), 8, 8)
ANCHORS = all_anchors([LEVEL])


def test_truths_are_the_sound_objects_that_are_not_ignored() -> None:
    boxes = torch.tensor([[1.0, 1, 5, 5], [1, 1, 1, 5], [5, 5, 1, 1], [0, 0, float("nan"), 4], [2, 2, 6, 6]])
    ignore = torch.tensor([False] * 4 + [True])
    assert find_targets(Instances(SIZE, boxes, torch.ones(5).long(), ignore=ignore)).tolist() == [0]


# anchors


def test_anchors_are_positive_negative_or_neither_by_iou() -> None:
    truths = squares(SIZE, [[20, 20, 36, 36], [0, 0, 16, 16]])
    labels, truth = assign_anchors([LEVEL], ANCHORS, truths, RPNConfig(positive_iou=0.7, negative_iou=0.3))
    iou = box_iou(ANCHORS, truths.boxes).max(dim=1).values
    best = {8 * 3 + 3, 8 + 1}  # anchor centres (28, 28) and (12, 12): all ties of the second are listed below
    assert labels[8 * 3 + 3] == 1 and truth[8 * 3 + 3] == 0
    assert best <= set(torch.nonzero(labels == 1).flatten().tolist())
    assert (labels[iou < 0.3] == 0).all() and (truth[labels == 0] == -1).all()
    assert (labels[(iou >= 0.3) & (iou < 0.7) & (labels != 1)] == -1).all()


def test_ignored_objects_are_no_targets_and_priors_inside_are_no_negatives() -> None:
    truths = squares(SIZE, [[20, 20, 36, 36], [36, 20, 64, 64]], ignore=[True, True])
    config = RPNConfig()
    labels, truth = assign_anchors([LEVEL], ANCHORS, truths, config)
    assert not (labels == 1).any() and (truth == -1).all()
    inside = torch.zeros(len(ANCHORS), dtype=torch.bool)
    for region in truths.boxes:
        low, high = torch.maximum(ANCHORS[:, :2], region[:2]), torch.minimum(ANCHORS[:, 2:], region[2:])
        inside |= (high - low).clamp(min=0).prod(dim=1) >= 0.5 * 16 * 16
    assert torch.equal(labels == -1, inside) and (labels[~inside] == 0).all()


def test_a_target_inside_an_ignored_region_stays_one() -> None:
    truths = squares(SIZE, [[20, 20, 36, 36], [16, 16, 40, 40]], ignore=[False, True])
    labels, truth = assign_anchors([LEVEL], ANCHORS, truths, RPNConfig())
    assert labels[8 * 3 + 3] == 1 and truth[8 * 3 + 3] == 0


def test_truth_indices_count_the_ignored_ones_too() -> None:
    truths = squares(SIZE, [[0, 0, 9, 9], [20, 20, 36, 36]], ignore=[True, False])
    _, truth = assign_anchors([LEVEL], ANCHORS, truths, RPNConfig())
    assert truth[8 * 3 + 3] == 1 and set(truth.tolist()) == {-1, 1}
    assert assign_proposals(truths.boxes, truths, BoxHeadConfig()).targets.tolist() == [-1, 1]


# proposals


def test_proposals_take_the_class_of_their_best_truth() -> None:
    truths = squares(SIZE, [[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]], ignore=[False, False, True])
    truths.labels = torch.tensor([3, 7, 5])
    proposals = torch.tensor([[0.0, 0, 10, 11], [0, 0, 10, 20.1], [21, 21, 40, 40], [50, 50, 60, 60], [52, 52, 64, 60]])
    labels, truth = assign_proposals(proposals, truths, BoxHeadConfig(positive_iou=0.5))
    assert labels.tolist() == [3, 0, 7, -1, -1] and truth.tolist() == [0, -1, 1, -1, -1]


def test_without_truths_every_proposal_is_background() -> None:
    labels, truth = assign_proposals(torch.rand(4, 4), Instances.empty(SIZE), BoxHeadConfig())
    assert labels.tolist() == [0] * 4 and truth.tolist() == [-1] * 4 and labels.dtype == torch.int64


# sampling


@pytest.mark.parametrize(
    ("positives", "negatives", "count", "fraction", "wanted"),
    [
        (50, 500, 64, 0.5, (32, 32)),
        (5, 500, 64, 0.5, (5, 59)),
        (50, 3, 64, 0.5, (32, 3)),
        (50, 500, 64, 0.0, (0, 64)),
        (50, 500, 64, 1.0, (50, 14)),
        (0, 0, 64, 0.5, (0, 0)),
        (2, 2, 1, 0.5, (0, 1)),
    ],
)
def test_sampling_counts(positives: int, negatives: int, count: int, fraction: float, wanted: tuple[int, int]) -> None:
    labels = torch.tensor([2] * positives + [0] * negatives + [-1] * 20)
    labels = labels[torch.randperm(len(labels))]
    chosen = sample(labels, count, fraction)
    assert len(torch.unique(chosen)) == len(chosen)
    picked = labels[chosen]
    assert (int((picked > 0).sum()), int((picked == 0).sum())) == wanted and (picked >= 0).all()
    assert (picked[: wanted[0]] > 0).all()  # positives first


def test_sampling_is_fair_and_follows_the_seed() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    torch.manual_seed(3)
    first = [sample(labels, 5, 0.5) for _ in range(400)]
    assert torch.bincount(torch.cat(first), minlength=20).min() > 60  # 100 expected
    torch.manual_seed(3)
    assert all(torch.equal(sample(labels, 5, 0.5), chosen) for chosen in first)


def test_sampling_by_hardness_takes_the_hardest_of_each_kind() -> None:
    labels = torch.tensor([1, 0, 1, 0, 0, -1, 1])
    hardness = torch.tensor([0.1, 0.5, 0.9, 0.2, 0.8, 1.0, 0.4])
    assert sample(labels, 4, 0.5, hardness).tolist() == [2, 6, 4, 1]


def test_hard_negatives_are_those_the_head_gets_most_wrong() -> None:
    detector = toy_detector("faster_rcnn", box__hard_negatives=True, box__append_targets=False, box__rois_per_image=6)
    head = detector.box_head
    assert head is not None
    torch.nn.init.normal_(head.classes.weight, std=2.0)
    image, truths = disks((64, 96), 2)
    features = detector.features([image])[:3]
    boxes = torch.cat([truths.boxes, detector.propose([image])[0].boxes])
    labels = assign_proposals(boxes, truths, detector.config.box).labels
    with torch.no_grad():
        background = head(features, boxes, torch.zeros(len(boxes)).long())[0].log_softmax(dim=1)[:, 0]
    samples = head.sample(features, [Instances((64, 96), boxes, torch.ones(len(boxes)).long())], [truths])
    negatives = samples.boxes[samples.labels == 0]
    hardest = boxes[labels == 0][background[labels == 0].argsort()[: len(negatives)]]
    assert len(negatives) == 5 and torch.equal(negatives, hardest)
    positive = samples.boxes[samples.labels > 0]
    assert torch.equal(positive[0], boxes[labels > 0][background[labels > 0].argmax()])


def test_calibrated_scores_follow_the_share_of_positives_among_all_proposals() -> None:
    labels = torch.tensor([1] * 50 + [2] * 50 + [0] * 900 + [-1] * 7)
    chosen = sample(labels, 100, 0.5)
    log_odds = compute_sampling_log_odds(labels, chosen)
    assert log_odds == pytest.approx(math.log((50 / 100) / (50 / 900)))
    # A head that cannot tell RoIs apart loses the least where its scores are the labels' shares among all proposals.
    shares = torch.tensor([0.9, 0.05, 0.05])
    targets = labels[chosen]
    drawn = torch.bincount(targets, minlength=3) / len(targets)

    def loss(scores: Tensor) -> Tensor:
        logits = scores.log() + torch.tensor([0.0, 1.0, 1.0]) * log_odds
        return F.cross_entropy(logits.expand(3, 3), torch.arange(3), reduction="none") @ torch.tensor([0.5, 0.25, 0.25])

    assert drawn[0] == 0.5
    for other in ([0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.94, 0.03, 0.03], [0.9, 0.07, 0.03]):
        assert loss(shares) < loss(torch.tensor(other))


@pytest.mark.parametrize("labels", [[1, 2, 1], [0, 0, 0], [], [-1, 0]])
def test_samples_of_one_kind_are_not_corrected(labels: list[int]) -> None:
    every = torch.tensor(labels, dtype=torch.int64)
    assert compute_sampling_log_odds(every, sample(every, 4, 0.5)) == 0


@pytest.mark.parametrize(
    ("changes", "corrected"), [({}, True), ({"calibrated": False}, False), ({"hard": True}, False)]
)
def test_the_class_loss_is_corrected_unless_negatives_are_chosen(changes: dict[str, bool], corrected: bool) -> None:
    detector = toy_detector(
        "faster_rcnn",
        box__calibrated=changes.get("calibrated", True),
        box__hard_negatives=changes.get("hard", False),
        box__rois_per_image=8,
    )
    head = detector.box_head
    assert head is not None
    image, truths = disks((64, 96), 2)
    features = detector.features([image])[:3]
    boxes = torch.cat([truths.boxes, detector.propose([image])[0].boxes])
    samples = head.sample(features, [Instances((64, 96), boxes, torch.ones(len(boxes)).long())], [truths])
    assert float(samples.log_odds) > 0.1  # rarer among the proposals than in the sample
    found = head.loss(features, samples, [truths], per_sample=True)["loss_classifier"].detach()
    logits, _ = head(features, samples.boxes, samples.images)
    logits[:, 1:] += samples.log_odds[0] if corrected else 0.0
    assert found == pytest.approx(float(F.cross_entropy(logits, samples.labels).detach()), rel=1e-5)


def test_truths_join_the_proposals_in_training() -> None:
    image, truths = disks((64, 96), 3)
    for append in (True, False):
        detector = toy_detector("faster_rcnn", box__append_targets=append)
        assert detector.box_head is not None
        samples = detector.box_head.sample(detector.features([image]), [Instances.empty((64, 96))], [truths])
        assert len(samples.boxes) == (3 if append else 0) and samples.counts.tolist() == [len(samples.boxes)]


# losses


def test_losses_are_averaged_over_each_image_or_over_the_pool() -> None:
    values, images, counts = torch.tensor([1.0, 2, 3]), torch.tensor([0, 0, 1]), torch.tensor([2.0, 4.0])
    assert float(reduce_loss(values, images, counts, per_sample=True)) == pytest.approx(((1 + 2) / 2 + 3 / 4) / 2)
    assert float(reduce_loss(values, images, counts, per_sample=False)) == pytest.approx(6 / 6)


@pytest.mark.parametrize("per_sample", [True, False])
def test_losses_of_nothing_are_zero(per_sample: bool) -> None:
    nothing = torch.zeros(0, requires_grad=True)
    loss = reduce_loss(nothing, torch.zeros(0).long(), torch.zeros(2), per_sample)
    loss.backward()
    assert float(loss.detach()) == 0 and nothing.grad is not None


def test_image_index_counts_rows() -> None:
    assert compute_image_index([torch.zeros(2, 4), torch.zeros(0, 4), torch.zeros(1, 4)]).tolist() == [0, 0, 2]


def rpn_output(seed: int = 0) -> RPNOutput:
    generator = torch.Generator().manual_seed(seed)
    logits, deltas = torch.randn(2, 64, generator=generator), torch.randn(2, 64, 4, generator=generator)
    return RPNOutput([logits], [deltas], [LEVEL])


RPN_TRUTHS = [squares(SIZE, [[21, 19, 36, 35]]), squares(SIZE, [[3, 5, 18, 20], [44, 44, 60, 61]])]


@pytest.mark.parametrize("focal", [False, True])
@pytest.mark.parametrize("per_sample", [True, False])
def test_rpn_losses_equal_their_formulas(focal: bool, per_sample: bool) -> None:
    detector = toy_detector("rpn", rpn__focal_loss=focal, rpn__anchors_per_image=1000, rpn__positive_fraction=1.0)
    output = rpn_output()
    objectness, box, counts = [], [], []
    for i, truths in enumerate(RPN_TRUTHS):
        labels, truth = assign_anchors([LEVEL], ANCHORS, truths, detector.config.rpn)
        target, logit = (labels > 0).float(), output.logits[0][i]
        entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
        if focal:
            p = logit.sigmoid()
            p, alpha = torch.where(target > 0, p, 1 - p), torch.where(target > 0, 0.25, 0.75)
            entropy = alpha * (1 - p) ** 2 * entropy
        objectness.append(entropy[labels >= 0].sum())
        wanted = encode_boxes(truths.boxes[truth[labels > 0]], ANCHORS[labels > 0], (1, 1, 1, 1))
        box.append(F.smooth_l1_loss(output.deltas[0][i, labels > 0], wanted, beta=1 / 9, reduction="sum"))
        counts.append(int((labels > 0).sum()) if focal else int((labels >= 0).sum()))
    found = detector.rpn.loss(output, RPN_TRUTHS, per_sample)
    for name, sums in (("loss_objectness", objectness), ("loss_rpn_box_reg", box)):
        each = (sums[0] / counts[0] + sums[1] / counts[1]) / 2
        wanted = each if per_sample else (sums[0] + sums[1]) / sum(counts)
        torch.testing.assert_close(found[name], wanted)
