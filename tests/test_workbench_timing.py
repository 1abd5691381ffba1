"""Times in tables: medians that a pause of the machine does not move."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from programs_toy import N_TRAIN, succeed

from examples.compare_heads import main as compare_heads
from maskrcnn.training.runlog import read_metrics
from workbench.timing import compute_median_step_seconds, describe_times, get_load_average


def lines_of(seconds: list[float], every: int = 10) -> list[dict[str, float | str]]:
    """Lines of `metrics.jsonl` where the steps between two lines take these seconds each."""
    lines: list[dict[str, float | str]] = [{"kind": "train", "step": 1, "seconds": 99.0}]
    total = 3.0  # the first steps, which load and compile
    for number, each in enumerate([0.0, *seconds]):
        total += each * every
        lines.append({"kind": "step", "step": (number + 1) * every, "seconds": total})
    return lines


def test_the_median_is_the_step_of_an_idle_machine() -> None:
    assert compute_median_step_seconds(lines_of([0.1] * 20)) == pytest.approx(0.1)
    busy = [0.1] * 12 + [5.0] * 8  # others' work during two fifths of the run
    assert compute_median_step_seconds(lines_of(busy)) == pytest.approx(0.1)
    assert compute_median_step_seconds(lines_of([0.2, 0.1, 0.3], every=1)) == pytest.approx(0.2)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_lines_have_no_median(count: int) -> None:
    assert compute_median_step_seconds(lines_of([0.1])[: count + 1]) is None


def test_the_table_has_medians_and_the_load(workplace: Path) -> None:
    settings = workplace / "smallobjects.toml"
    settings.write_text(settings.read_text() + "log_every_n_steps = 1\n")
    text = "\n".join(succeed(compare_heads, "--num_epochs=2"))
    assert " ".join(describe_times().split()) in " ".join(text.split())
    with (workplace / "runs/ellipses-heads-1/heads.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        lines = read_metrics(workplace / f"runs/ellipses-heads-1/ellipses-{row['head']}-1/metrics.jsonl")
        steps = 2 * N_TRAIN // 2
        assert float(row["train_seconds"]) == pytest.approx(steps * (compute_median_step_seconds(lines) or 0))
        assert float(row["inference_ms"]) > 0 and json.loads(row["load"] or "null") == pytest.approx(
            get_load_average(), abs=50
        )
