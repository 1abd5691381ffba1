"""Category ids of data sets, which need not be 1 to K as labels are."""

from collections.abc import Sequence

from torch import Tensor


def to_category_ids(labels: Tensor, category_ids: Sequence[int] | None) -> list[int]:
    """Convert labels `[N]` to category ids: `category_ids[0]` is the id of label 1; None returns the labels.

    Raises:
        ValueError: If there is a label without an id.
    """
    values: list[int] = labels.tolist()
    if category_ids is None:
        return values
    for label in values:
        if not 1 <= label <= len(category_ids):
            raise ValueError(
                f"label {label} has no category id: category_ids has {len(category_ids)}, for labels 1 to "
                f"{len(category_ids)}; give one id for each class"
            )
    return [int(category_ids[label - 1]) for label in values]
