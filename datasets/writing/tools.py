"""Writers of the files of annotation tools: YOLO and Roboflow folders, LabelMe, QuPath's GeoJSON and Label Studio."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.writing.images import write_image
from datasets.writing.sample import Losses, Sample, Writer
from maskrcnn.exports import geojson, label_studio, labelme, yolo
from maskrcnn.structures.instances import Instances


class ToolWriter(Writer):
    """Base class: images are copied or written as PNG, and `write_objects` writes their annotations.

    Masks are written as exact outlines; the box of an object with a mask is the bounding box of the mask.
    """

    holds_boxes = True

    def __init__(self, root: Path, class_names: Sequence[str], has_masks: bool, losses: Losses) -> None:
        super().__init__(root, losses)
        self._class_names = list(class_names)
        self.parts: list[str] = []

    def get_folder(self, part: str) -> Path:
        """Return the folder of the images of a part."""
        return self.root / part

    def add(self, part: str, sample: Sample) -> None:
        """Write the image and its objects."""
        folder = self.get_folder(part)
        if part not in self.parts:
            self.parts.append(part)
            folder.mkdir(parents=True)
        file = write_image(folder, sample, IMAGE_SUFFIXES)
        self._count_losses(sample.instances)
        self.write_objects(part, sample, file)

    def write_objects(self, part: str, sample: Sample, file: str) -> None:
        """Write the objects of an image; `file` is its file name."""
        raise NotImplementedError

    def _count_losses(self, instances: Instances) -> None:
        self.losses.add_named_image()
        ids = [] if instances.ids is None else instances.ids.tolist()
        renumbered = sum(number != place for place, number in enumerate(ids, start=1))
        self.losses.add_renumbered(renumbered)
        self.losses.add("the marks of {n} ignored objects, which become ordinary ones", int(instances.ignore.sum()))
        if instances.masks is not None:
            changed = instances.has_mask() & (instances.masks.boxes() != instances.boxes).any(dim=1)
            rule = "the boxes of {n} objects, which are replaced by the bounding boxes of their masks"
            self.losses.add(rule, int(changed.sum()))

    def finish(self) -> None:
        """Write the files that require all samples."""


class YoloWriter(ToolWriter):
    """Writes `images/<part>`, `labels/<part>` and `data.yaml`, as Ultralytics reads them."""

    def get_folder(self, part: str) -> Path:
        """Return the folder of the images of a part."""
        return self.root / "images" / part

    def get_labels(self, part: str) -> Path:
        """Return the folder of the labels of a part."""
        return self.root / "labels" / part

    def write_objects(self, part: str, sample: Sample, file: str) -> None:
        """Write the text file of an image."""
        folder = self.get_labels(part)
        folder.mkdir(parents=True, exist_ok=True)
        lines = yolo.make_lines(sample.instances)
        (folder / f"{sample.name}.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8", newline="\n")
        self.losses.add(
            "the outlines of {n} objects of several parts or with holes, whose rings are joined by lines of no width",
            count_compound(sample.instances),
        )

    def finish(self) -> None:
        """Write `data.yaml`."""
        places = {part: self.get_folder(part).relative_to(self.root).as_posix() for part in self.parts}
        write_yaml(self.root / "data.yaml", places, self._class_names)


class RoboflowWriter(YoloWriter):
    """Writes `train`, `valid` and `test`, each with `images` and `labels`, and `data.yaml`, as Roboflow exports."""

    def get_folder(self, part: str) -> Path:
        """Return the folder of the images of a part."""
        return self.root / ("valid" if part == "val" else part) / "images"

    def get_labels(self, part: str) -> Path:
        """Return the folder of the labels of a part."""
        return self.get_folder(part).with_name("labels")


class LabelMeWriter(ToolWriter):
    """Writes a JSON file next to each image, in a folder per part."""

    def write_objects(self, part: str, sample: Sample, file: str) -> None:
        """Write the JSON file of an image."""
        document = labelme.make_document(sample.instances, self._class_names, file)
        _write_json(self.get_folder(part) / f"{sample.name}.json", document)


class GeoJsonWriter(ToolWriter):
    """Writes a GeoJSON file for QuPath next to each image, in a folder per part."""

    def write_objects(self, part: str, sample: Sample, file: str) -> None:
        """Write the GeoJSON file of an image."""
        collection = geojson.make_feature_collection(sample.instances, self._class_names, file)
        _write_json(self.get_folder(part) / f"{sample.name}.geojson", collection)


class LabelStudioWriter(ToolWriter):
    """Writes the images of each part to a folder, and all tasks with predictions to `tasks.json`.

    The images are named as files below the root of Label Studio's local storage (LOCAL_FILES_DOCUMENT_ROOT).
    """

    def __init__(self, root: Path, class_names: Sequence[str], has_masks: bool, losses: Losses) -> None:
        super().__init__(root, class_names, has_masks, losses)
        self._tasks = self.open_files.enter_context((root / "tasks.json").open("w", encoding="utf-8", newline="\n"))
        self._separator = "[\n"

    def write_objects(self, part: str, sample: Sample, file: str) -> None:
        """Write the task of an image."""
        task = label_studio.make_task(sample.instances, self._class_names, f"/data/local-files/?d={part}/{file}")
        self._tasks.write(self._separator + json.dumps(task, ensure_ascii=False, separators=(",", ":")))
        self._separator = ",\n"
        self.losses.add(
            "the outlines of {n} objects of several parts or with holes, whose rings are joined by lines of no width",
            count_compound(sample.instances),
        )

    def finish(self) -> None:
        """End the list of tasks, and write the labeling interface."""
        self._tasks.write("\n]\n")
        self._tasks.flush()
        labels = "".join(f"<Label value={_quote_xml(name)}/>" for name in self._class_names)
        controls = ((kind, name) for kind, name in (("PolygonLabels", "polygon"), ("RectangleLabels", "box")))
        inner = "".join(f'<{kind} name="{name}" toName="image">{labels}</{kind}>' for kind, name in controls)
        text = f'<View><Image name="image" value="$image"/>{inner}</View>\n'
        (self.root / "labeling_interface.xml").write_text(text, "utf-8", newline="\n")


def count_compound(instances: Instances) -> int:
    """Count the masks of several parts or with holes."""
    masks = instances.masks
    if masks is None:
        return 0
    traced = (masks.trace(place) for place in range(len(masks)))
    return sum(sum(map(len, polygons)) > 1 for polygons in traced)


def write_yaml(path: Path, places: dict[str, str], class_names: Sequence[str]) -> None:
    """Write `data.yaml` with the folders of the parts and the class names."""
    train = places.get("train", next(iter(places.values())))  # YOLO's tools require both
    lines = ["path: .", f"train: {train}", f"val: {places.get('val', places.get('test', train))}"]
    if "test" in places and "val" in places:
        lines.append(f"test: {places['test']}")
    lines += [f"nc: {len(class_names)}", "names:"]
    lines += [f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(class_names)]
    path.write_text("\n".join(lines) + "\n", "utf-8", newline="\n")


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    path.write_text(json.dumps(contents, ensure_ascii=False, separators=(",", ":")), "utf-8", newline="\n")


def _quote_xml(text: str) -> str:
    from xml.sax.saxutils import quoteattr

    return quoteattr(text)
