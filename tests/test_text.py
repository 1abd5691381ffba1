"""Counts with their nouns."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from datasets.checks import RULES
from maskrcnn.text import describe_error, format_count


@pytest.mark.parametrize(
    ("phrase", "singular"),
    [
        ("objects", "1 object"),
        ("training images", "1 training image"),
        ("boxes clipped to the image", "1 box clipped to the image"),
        ("classes without objects", "1 class without objects"),
        ("categories", "1 category"),
        ("patches are read by two processes", "1 patch is read by two processes"),
        ("16-bit images with values outside the levels", "1 16-bit image with values outside the levels"),
        ("boxes that do not fit their mask", "1 box that does not fit its mask"),
        ("class names are merged", "1 class name is merged"),
        ("radius values, rounded", "1 radius value, rounded"),
        ("of 5 objects are ignored", "1 of 5 objects is ignored"),
        ("of 1,200 images have no file", "1 of 1,200 images has no file"),
    ],
)
def test_one_is_singular_and_other_counts_are_plural(phrase: str, singular: str) -> None:
    assert format_count(1, phrase) == singular
    assert format_count(0, phrase) == f"0 {phrase}"
    assert format_count(1234, phrase) == f"1,234 {phrase}"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_the_readers_has_a_singular(rule: str) -> None:
    assert format_count(1, rule) != f"1 {rule}"


def test_errors_of_libraries_are_one_line_without_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "a>b.png"
    path.write_text("no image")
    with path.open("rb") as file:
        for source in (file, io.BytesIO(b"no image")):
            with pytest.raises(UnidentifiedImageError, match="<_io.Buffer|<_io.Bytes") as caught:
                Image.open(source)
            assert describe_error(caught.value) == "cannot identify image file"
    assert describe_error(ValueError("wrong size <5> in\n  header")) == "wrong size <5> in header"
    assert describe_error(EOFError()) == "EOFError"
    assert re.fullmatch("x{40}", describe_error(OSError("x" * 200), 40))
