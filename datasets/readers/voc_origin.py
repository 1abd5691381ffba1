"""Detection of whether boxes in VOC XML files count pixels from 1, as PASCAL VOC does, or from 0, as most tools do."""

import re
from pathlib import Path
from unicodedata import normalize

from datasets.readers.folders import list_files
from maskrcnn.config import UserError

_PASCAL = re.compile(rb"<database>\s*The VOC\d{4} Database\s*</database>")
# Roboflow and Label Studio write their names; CVAT writes Unknown three times.
_FROM_ZERO = re.compile(
    rb"<database>\s*roboflow\.\w+\s*</database>"
    rb"|<name>\s*Label Studio\s*</name>"
    rb"|<database>\s*Unknown\s*</database>\s*<annotation>\s*Unknown\s*</annotation>\s*<image>\s*Unknown\s*</image>"
)
_ZERO = re.compile(rb"<[xy]min>\s*0*(?:0|\.0|0\.\d*)\s*</[xy]min>")


def find_first_pixel(folder: Path) -> tuple[int, set[str]]:
    """Detect whether boxes count pixels from 0 or 1.

    Args:
        folder: folder of the XML files. If the first file is PASCAL VOC's, the others are not read.

    Returns:
        The number of the first pixel, 0 or 1, and the names of the files that indicate 0, without suffix, in NFC.
    """
    files = list_files(folder, (".xml",))
    names = set()
    for path in files:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        if path == files[0] and _PASCAL.search(text):
            return 1, set()
        if _FROM_ZERO.search(text) or _ZERO.search(text):
            names.add(normalize("NFC", path.stem))
    return (0 if names else 1), names
