"""Counts with their nouns."""

import pytest

from datasets.checks import RULES
from maskrcnn.text import format_count


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
