"""Programs of the project, and the commands that start them."""

from __future__ import annotations

import shlex
import sys

COMMAND = "smallobjects"
PROGRAMS = {  # name: (module, what it does)
    "train": ("examples.train", "train an RPN, a Faster R-CNN or a Mask R-CNN"),
    "predict": ("maskrcnn.inference.program", "detect the objects in an image or a folder of images"),
    "evaluate": ("examples.evaluate", "measure runs or COCO results files with intervals, and compare them"),
    "compare": ("examples.compare_heads", "train the three heads on the same data and compare them"),
    "create": ("examples.create_shapes", "create synthetic data"),
    "sweep": ("examples.sweep_data", "create data sets that differ in one factor"),
    "describe": ("examples.describe_data", "describe a data set and propose anchors for it"),
    "check": ("examples.check_data", "check a data set"),
    "convert": ("examples.convert", "convert a data set to another format"),
    "browse": ("examples.browse", "draw augmented training samples"),
    "doctor": ("maskrcnn.ops", "report whether the native core is loaded"),
}
_STARTS = {  # in the root of the clone; others: -m and the module
    "train": ["example_smallobject_train.py"],
    "ellipses": ["create_ellipses.py"],
    "predict": ["-m", "examples.predict"],
}


def format_command(name: str, *arguments: str) -> str:
    """Format the command that starts a program in the way in which this one was started.

    Args:
        name: a key of `PROGRAMS`, or "ellipses" for `create` with its preset ellipses.
        *arguments: arguments of the program.

    Returns:
        `smallobjects NAME …`, which works in any folder, if this program was started so; otherwise `python …`, which
        works in the root of the clone.
    """
    if sys.argv[0].startswith(f"{COMMAND} "):
        words = [COMMAND, *(("create", "--preset=ellipses") if name == "ellipses" else (name,))]
    else:
        words = ["python", *(_STARTS[name] if name in _STARTS else ["-m", PROGRAMS[name][0]])]
    return shlex.join([*words, *arguments])
