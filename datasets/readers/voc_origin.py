"""Whether the boxes of VOC's XML files count pixels from 1, as PASCAL's do, or from 0, as most tools of today."""

import re
from pathlib import Path

from datasets.readers.folders import files_in
from maskrcnn.config import UserError

_PASCAL = re.compile(rb"<database>\s*The VOC\d{4} Database\s*</database>")
# Roboflow and Label Studio say their names; CVAT writes three times Unknown.
_FROM_ZERO = re.compile(
    rb"<database>\s*roboflow\.\w+\s*</database>"
    rb"|<name>\s*Label Studio\s*</name>"
    rb"|<database>\s*Unknown\s*</database>\s*<annotation>\s*Unknown\s*</annotation>\s*<image>\s*Unknown\s*</image>"
)
_ZERO = re.compile(rb"<[xy]min>\s*0*(?:0|\.0|0\.\d*)\s*</[xy]min>")


def find_first_pixel(folder: Path) -> tuple[int, int]:
    """The number of the first pixel, 0 or 1, and how many of the files say that it is 0.

    Args:
        folder: of the XML files. If the first of them is PASCAL's, no other is looked at.
    """
    files = files_in(folder, (".xml",))
    count = 0
    for path in files:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        if path == files[0] and _PASCAL.search(text):
            return 1, 0
        count += bool(_FROM_ZERO.search(text) or _ZERO.search(text))
    return (0 if count else 1), count
