"""An experiment: data, detector, training, evaluation and plots."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch

from augment.training import make_training_transform
from datasets.interface import get_category_ids
from maskrcnn.config import to_toml
from maskrcnn.evaluation.coco_format import write_coco_results
from maskrcnn.evaluation.figures import Evaluation, evaluate
from maskrcnn.evaluation.operating_point import DEFAULT_THRESHOLD
from maskrcnn.files import atomic_write
from maskrcnn.inference.pipeline import Detects, build_views, is_plain
from maskrcnn.model.detector import Detector
from maskrcnn.model.limits import count_cuts, describe_cuts
from maskrcnn.plotting.curves import plot_ap, plot_detected_sizes, plot_losses, plot_precision_recall
from maskrcnn.plotting.predictions import render_prediction, save_picture
from maskrcnn.text import format_count
from maskrcnn.training.budget import EvaluationCost, estimate_cost
from maskrcnn.training.checkpoint import load_checkpoint, load_weights
from maskrcnn.training.identity import Identity, identify
from maskrcnn.training.loading import KeyedSamples, load_evaluation_batches
from maskrcnn.training.loop import Callbacks, Training, TrainingState
from maskrcnn.training.machine import set_up_machine
from maskrcnn.training.runlog import RunLog, read_metrics
from maskrcnn.training.validation import choose_best_metric
from maskrcnn.weights.classes import match_classes
from maskrcnn.weights.torchvision import load_torchvision
from workbench.config import ExperimentConfig
from workbench.data import Data
from workbench.evaluation import EvaluationSet, Predictions, choose_views, no_detections, predict
from workbench.output import check_output, make_folder, make_picture_names

FREE_ON_RESUME = ("paths", "output", "views", "data.dataset_root", "data.cache_mb", "reading.image_folder")
PICTURES_IN_LOG = 4  # images per split in TensorBoard


def make_training_samples(config: ExperimentConfig, data: Data) -> KeyedSamples:
    """Return the training samples, with augmentation."""
    transform = make_training_transform(config.augment, data.train, data.gray_levels)
    return KeyedSamples(data.train, transform, config.training.seed, config.training.crops_per_image)


def build_detector(config: ExperimentConfig, data: Data, notify: Callable[[str], None]) -> Detector:
    """Build the detector with initial weights: those of `start_from`, or else random ones that depend only on the seed.

    If `start_from` has other classes, their weights are matched by name or left out, which is reported to `notify`.
    """
    torch.manual_seed(config.training.seed)
    detector = Detector(config.detector, len(data.class_names), config.head)
    if config.start_from is not None and config.start_from.endswith(".pth"):  # torchvision's files; ours end in .pt
        note = load_torchvision(detector, config.start_from, data.class_names)
    elif config.start_from is not None:
        contents = load_checkpoint(config.start_from)
        known = contents.get("class_names")
        weights, note = match_classes(detector.state_dict(), contents["model"], known, data.class_names)
        load_weights(detector, weights, config.start_from)
    else:
        return detector
    if note is not None:
        notify(f"--start_from={config.start_from}: {note}")
    return detector


def identify_parts(data: Data) -> dict[str, Identity]:
    """Return the identity of each split, which must not change until a run is resumed."""
    return {name: identify(dataset) for name, dataset in data.splits().items()}


class Experiment:
    """One run in its folder, from the first step to the last picture.

    Validation images are evaluated while it trains and choose the best weights; these are evaluated on the test images
    once, at the end.
    """

    def __init__(self, config: ExperimentConfig, log: RunLog, data: Data, on_step: Callable[[Training], None]) -> None:
        self.config, self.log, self.data = config, log, data
        self.machine = set_up_machine(config.training)
        self.detector = build_detector(config, data, log.info)
        self.samples = make_training_samples(config, data)
        self.test = EvaluationSet.read("test", data.test)
        self.validation = EvaluationSet("validation", *self.test[1:])
        if not data.validates_on_test:
            self.validation = EvaluationSet.read("validation", data.validation)
        batches = load_evaluation_batches(self.validation.samples, config.training.batch_size)
        self.training = Training(
            self.detector,
            self.samples,
            config.training,
            self.machine,
            log,
            Callbacks(self.evaluate, batches, on_step, self.after_epoch, self.estimate_cost()),
            {
                "head": config.head,
                "class_names": list(data.class_names),
                "category_ids": list(get_category_ids(data.train)),
            },
            config,
            identify_parts(data),
        )
        self._validated: tuple[int, torch.nn.Module | None, Predictions] = (-1, None, {})
        self.tested: Evaluation | None = None  # of the test images

    def estimate_cost(self) -> EvaluationCost:
        """Estimate the cost of an evaluation in training steps, from the sizes of images, views and crops."""
        height, *width = self.config.augment.crop_size
        sizes = [each.size for each in self.validation.targets.values()]
        crop = height * (width[0] if width else height) or sum(h * w for h, w in sizes) / len(sizes)
        in_step = crop * self.config.training.batch_size
        costs = {
            images.name: estimate_cost(self.count_pixels(images), in_step) for images in (self.validation, self.test)
        }
        return EvaluationCost(**costs)

    def count_pixels(self, images: EvaluationSet) -> int:
        """Count the pixels that the detector processes in an evaluation, in all views and tiles."""
        pixels = 0
        sizes = Counter((target.size, image_id in images.large) for image_id, target in images.targets.items())
        for (size, is_large), count in sizes.items():
            views = choose_views(self.config.views, is_large)
            seen = [size] if is_plain(views) else [view.size for view in build_views(self.detector, views, size)]
            pixels += count * sum(height * width for height, width in seen)
        return pixels

    def resume(self) -> None:
        """Resume from the last checkpoint in the run folder."""
        self.check()
        self.training.resume(FREE_ON_RESUME)

    def start(self) -> None:
        """Write the options and environment of the run."""
        self.check()
        self.log.start(to_toml(self.config), command=shlex.join(sys.argv))

    def check(self) -> None:
        """Raise a UserError early for an unknown metric or view, or an output folder that is not writable."""
        image_id, target = next(iter(self.validation.targets.items()))
        build_views(self.detector, choose_views(self.config.views, image_id in self.validation.large), target.size)
        wanted = self.config.training.best_metric
        if wanted not in ("auto", "validation_loss"):
            targets = self.validation.targets
            nothing = {image_id: no_detections(target.size) for image_id, target in targets.items()}
            metrics = self.measure(self.validation, nothing, None).metrics
            choose_best_metric(wanted, {"validation_loss": 0.0} | metrics)
        check_output(self.config.output)

    def predict(self, detector: Detects, images: EvaluationSet) -> Predictions:
        """Predict the objects in the images, by image id, and log which limits were exceeded."""
        batch_size, views = self.config.training.batch_size, self.config.views
        with count_cuts() as cuts:
            found = predict(detector, images.samples, self.machine, batch_size, views)
        if (cut := describe_cuts(cuts, self.config.detector)) is not None:
            self.log.info(f"note: {cut}")
        return found

    def predict_validation(self, detector: torch.nn.Module) -> Predictions:
        """Predict the objects in the validation images with the current weights, once per step."""
        step = self.training.state.step
        if self._validated[0] != step or self._validated[1] is not detector:
            self._validated = step, detector, self.predict(cast(Detects, detector), self.validation)
        return self._validated[2]

    def measure(self, images: EvaluationSet, predictions: Predictions, threshold: float | None) -> Evaluation:
        """Compute all metrics; the default threshold is the one of the best F1 on these images."""
        return evaluate(
            images.targets,
            predictions,
            self.data.class_names,
            self.config.head,
            score_threshold=threshold,
            min_visible_fraction=self.config.output.min_visible_fraction,
        )

    def evaluate(self, detector: torch.nn.Module, epoch: int) -> dict[str, float]:
        """Compute the metrics of a detector on the validation images."""
        predictions = self.predict_validation(detector)
        metrics = self.measure(self.validation, predictions, self.config.output.min_score).metrics
        if self.config.output.prediction_every_n_epochs == -1:
            self.draw(self.validation, predictions, f"epoch-{epoch:04d}", self.threshold(metrics))
        return metrics

    def test_best(self) -> Evaluation:
        """Evaluate the best weights on the test images: metrics, pictures, predictions and curves.

        The detector has the best weights afterwards. `metrics.jsonl` gets one record, however often a finished run is
        taken up again.
        """
        best = self.load_best()
        threshold = self.threshold(best.metrics)
        predictions = self.predict(self.detector, self.test)
        self.tested = self.measure(self.test, predictions, threshold)
        self.draw(self.test, predictions, "test", threshold)
        lines = read_metrics(self.log.metrics_file)
        if not any(line.get("split") == "test" for line in lines):
            self.log.record("evaluation", epoch=best.epoch, step=best.step, split="test", **self.tested.metrics)
        self.plot_curves(self.tested, predictions)
        return self.tested

    def load_best(self) -> TrainingState:
        """Load the best weights, or keep the last if there are none; return the training state of their epoch."""
        path = self.log.weights / "best.pt"
        if not path.is_file():
            return self.training.state
        best = load_checkpoint(path)
        load_weights(self.detector, best["model"], path)
        return TrainingState(**best["state"])

    def threshold(self, metrics: Mapping[str, float]) -> float:
        """Return the minimum score of detections that are drawn and counted: given, or of the best validation F1."""
        given = self.config.output.min_score
        return metrics.get("operating_threshold", DEFAULT_THRESHOLD) if given is None else given

    def after_epoch(self, training: Training) -> None:
        """Draw validation images after an epoch, as configured."""
        every, epoch = self.config.output.prediction_every_n_epochs, training.state.epoch
        if (every > 0 and epoch % every == 0) or (every != -1 and training.state.finished):
            predictions, threshold = self.predict_validation(self.detector), self.threshold(training.state.metrics)
            self.draw(self.validation, predictions, f"epoch-{epoch:04d}", threshold)

    @property
    def plots(self) -> Path:
        """Folder of pictures."""
        return Path(self.config.output.plot_dir or self.log.folder / "plots")

    @property
    def results(self) -> Path:
        """Folder of predictions."""
        return Path(self.config.output.predictions_dir or self.log.folder / "predictions")

    def draw(self, images: EvaluationSet, predictions: Predictions, folder_name: str, threshold: float) -> None:
        """Write one picture per image, and the detections in COCO's results format."""
        folder = self.plots / folder_name
        results = self.results if images is self.test else self.results / images.name
        make_folder(folder)
        make_folder(results)
        dataset = images.dataset
        names = make_picture_names(dataset.image_names)
        for i, (name, (image, target, found)) in enumerate(zip(names, images.read_pictures(predictions), strict=True)):
            picture = render_prediction(image, target, found, self.config.head, threshold, self.data.class_names)
            save_picture(picture, folder / f"{name}.png")
            if i < PICTURES_IN_LOG:
                step = self.training.state.step
                self.log.add_image(f"{images.name}/{name}", torch.tensor(picture).permute(2, 0, 1), step)
        write_coco_results(results, predictions, get_category_ids(dataset))

    def copy_weights(self, path: Path) -> None:
        """Copy the best weights to `path`."""
        make_folder(path.parent)
        best = self.log.weights / "best.pt"
        with atomic_write(path) as beside:
            shutil.copyfile(best, beside)

    def plot_curves(self, tested: Evaluation, predictions: Predictions) -> None:
        """Plot losses and AP by epoch, and precision-recall curves and sizes of detected objects on the test set."""
        make_folder(self.plots)
        metrics = read_metrics(self.log.metrics_file)
        title = describe_run(self.config, self.training.state.epoch)
        plot_losses(metrics, self.plots / "losses.png", title)
        plot_ap(metrics, self.plots / "ap.png", title)
        figures = {"box": tested.box, "mask": tested.mask}
        curves = {kind: f.precision_recall_curves() for kind, f in figures.items() if f is not None}
        plot_precision_recall(curves, self.plots / "precision_recall.png", f"{title}, test images")
        head = self.config.head
        plot_detected_sizes(
            self.test.targets,
            predictions,
            self.plots / "sizes.png",
            tested.metrics["operating_threshold"],
            by_masks=head == "mask_rcnn",
            class_agnostic=head == "rpn",
            title=f"{title}, test images",
        )


def describe_run(config: ExperimentConfig, num_epochs: int, with_head: bool = True) -> str:
    """Describe data, length and seed of a run, for the titles of figures."""
    epochs = format_count(num_epochs, "epochs")
    parts = [config.data.dataset, *[config.head] * with_head, epochs, f"seed {config.training.seed}"]
    return ", ".join(parts)
