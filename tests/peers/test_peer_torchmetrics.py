"""Average precision and recall by torchmetrics, of the dictionaries that results are converted to."""

import pytest
import torch
from peers_toy import CLASSES, make_scenes

from maskrcnn.evaluation.coco import IOU_THRESHOLDS, RECALL_THRESHOLDS, evaluate_coco

pytest.importorskip("torchmetrics")
from torchmetrics.detection import MeanAveragePrecision

BACKENDS = ("pycocotools", "faster_coco_eval")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "theirs"), [("box", "bbox"), ("mask", "segm")])
def test_average_precision_and_recall(kind: str, theirs: str, backend: str) -> None:
    targets, found = make_scenes()
    if kind == "mask":  # torchmetrics forgets the masks that are found in an image without objects
        targets = {i: objects for i, objects in targets.items() if len(objects)}
        found = {i: found[i] for i in targets}
    # Its own thresholds are float32, and IoUs of pixel masks hit them.
    thresholds = {"iou_thresholds": list(IOU_THRESHOLDS), "rec_thresholds": list(RECALL_THRESHOLDS)}
    metric = MeanAveragePrecision(iou_type=theirs, backend=backend, class_metrics=True, **thresholds)
    for image_id, objects in targets.items():
        detections = found[image_id].to_torchvision()
        if "masks" in detections:  # probabilities [N, 1, H, W], as torchvision's models give them
            detections["masks"] = detections["masks"][:, 0] > 0.5
        metric.update([detections], [objects.to_torchvision() | {"area": objects.areas()}])
    computed = metric.compute()
    figures = evaluate_coco(targets, found, CLASSES, kind, limits=(1, 10, 100))

    def mean(size: int = 0, iou: slice | int = slice(None), limit: int = 2) -> float:
        values = torch.tensor(figures.precision[iou, :, :, size, limit])
        return float(values[~values.isnan()].mean())

    ours = {"map": mean(), "map_50": mean(iou=0), "map_75": mean(iou=5)}
    ours |= {f"map_{name}": mean(size=size) for size, name in enumerate(("small", "medium", "large"), start=1)}
    ours |= {f"mar_{limit}": figures.average_recall(limit) for limit in (1, 10, 100)}
    for name, value in ours.items():
        assert float(computed[name]) == pytest.approx(value, abs=1e-6), name
    assert computed["classes"].tolist() == [1, 2, 3]
    per_class = torch.tensor(figures.precision[..., 0, 2]).nanmean(dim=(0, 1))
    torch.testing.assert_close(computed["map_per_class"].double(), per_class, rtol=0, atol=1e-6)


def test_every_detection_counts_where_torchmetrics_is_told_so() -> None:
    targets, found = make_scenes(2, count=400)
    metric = MeanAveragePrecision(max_detection_thresholds=[1, 100, 10_000], iou_thresholds=list(IOU_THRESHOLDS))
    metric.warn_on_many_detections = False
    metric.update(
        [found[i].to_torchvision() for i in targets],
        [t.to_torchvision() | {"area": t.areas()} for t in targets.values()],
    )
    assert float(metric.compute()["mar_10000"]) == pytest.approx(evaluate_coco(targets, found, CLASSES).ar, abs=1e-6)
