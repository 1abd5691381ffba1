"""A run that is killed at any point, twice, ends with the same bits as one that nothing stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_toy import assert_same_runs

ROOT = Path(__file__).resolve().parents[1]
TRIALS = 14  # each is killed twice


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and forks")
def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "killing_toy.py"), str(tmp_path), str(TRIALS), "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == TRIALS
    for number in range(TRIALS):
        place = tmp_path / f"trial-{number}"
        assert_same_runs(tmp_path / "whole", place)
        names = [sorted(path.name for path in (each / "weights").iterdir()) for each in (tmp_path / "whole", place)]
        assert names[0] == names[1] == [*("best.pt",), *(f"epoch-000{n}.pt" for n in range(1, 5)), "last.pt"]
