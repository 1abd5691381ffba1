"""`python -m benchmarks.gpu`: what it does where something is missing, fails, hangs or takes too long."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks.gpu import running
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.build import find_error, find_warnings
from benchmarks.gpu.context import Context
from benchmarks.gpu.plan import STEPS, Step, select_steps
from benchmarks.gpu.report_plugin import VARIABLE, read_log
from benchmarks.gpu.requirements import ROOT, find_problems, find_reason
from benchmarks.gpu.running import Run, earlier_results, run_all, run_step, succeeded, time_limit
from benchmarks.gpu.suite import by_operation, find_errors
from benchmarks.ops import Run as Work
from maskrcnn.config import UserError
from maskrcnn.ops.types import Windows

GOOD: dict[str, Any] = {
    "python": "3.12.1",
    "packages": {
        "torch": "2.11.0+cu130", "torchvision": "0.26.0", "faster-coco-eval": "1.7", "pytest": "9.0", "hypothesis": "6",
    },
    "nvcc": "13.0", "card": "a GPU", "gpu_gigabytes_free": 80.0, "host_gigabytes_free": 100.0,
}  # fmt: skip
BY_LETTER = {step.letter: step for step in STEPS}


# ---- the machine


def machine(**changes: Any) -> dict[str, Any]:
    """A good machine with changes: packages by name, None removes a key."""
    packages = GOOD["packages"] | changes.pop("packages", {})
    found = GOOD | {"packages": packages} | changes
    return {key: value for key, value in found.items() if value is not None or key == "nvcc"}


@pytest.mark.parametrize(
    ("changes", "device", "library", "expected"),
    [
        ({}, "cuda", True, []),
        ({"card": None}, "cpu", False, []),
        ({"card": None}, "cuda", True, ["PyTorch 2.11.0+cu130 finds no CUDA GPU here; use --device=cpu"]),
        ({"nvcc": None}, "cuda", True, ["no nvcc on PATH"]),
        ({}, "cuda", False, ["the CUDA library is not built"]),
        ({"packages": {"torch": "2.10.1"}}, "cpu", True, ["PyTorch 2.10.1 is older than 2.11"]),
        ({"packages": {"torch": "2.14.0"}}, "cuda", True, []),
        ({"packages": {"torch": "2.9.0"}, "card": None}, "cuda", True, ["older than 2.11", "no CUDA GPU"]),
        ({"broken": "PyTorch cannot be imported: x"}, "cuda", True, ["PyTorch cannot be imported"]),
    ],
)
def test_what_is_wrong_with_a_machine_is_one_line_each(
    changes: dict[str, Any], device: str, library: bool, expected: list[str]
) -> None:
    problems = find_problems(machine(**changes), device, library)
    assert len(problems) == len(expected)
    for problem, words in zip(problems, expected, strict=True):
        assert words in problem and "\n" not in problem


@pytest.mark.parametrize(
    ("letter", "changes", "device", "reason"),
    [
        ("a", {}, "cuda", None),
        ("a", {"nvcc": None}, "cuda", "no nvcc"),
        ("c", {"nvcc": None}, "cuda", None),
        ("a", {"nvcc": None, "card": None}, "cpu", None),
        ("a", {"packages": {"torch": "2.10.0"}}, "cuda", "older than the libraries' target"),
        ("d", {"packages": {"torch": "2.10.0"}}, "cuda", None),
        ("d", {"card": None}, "cuda", "no CUDA GPU"),
        ("d", {"gpu_gigabytes_free": 7.5}, "cuda", "too little GPU memory: 7.5 GB free, 24 GB needed"),
        ("b", {"gpu_gigabytes_free": 7.5}, "cuda", None),
        ("d", {"host_gigabytes_free": 0.5}, "cpu", "too little memory: 0.5 GB free, 4 GB needed"),
        ("d", {"host_gigabytes_free": None}, "cpu", None),
        (
            "e",
            {"packages": {"faster-coco-eval": None}},
            "cuda",
            "not installed: faster-coco-eval; benchmarks/README.md",
        ),
        ("d", {"packages": {"faster-coco-eval": None}}, "cuda", None),
        ("c", {"packages": {"torchvision": None}}, "cuda", "not installed: torchvision"),
        ("a", {"packages": {"torchvision": None}}, "cuda", None),
        ("b", {"packages": {"pytest": None, "hypothesis": None}}, "cpu", "not installed: pytest, hypothesis"),
    ],
)
def test_a_step_that_cannot_run_says_why(letter: str, changes: dict[str, Any], device: str, reason: str | None) -> None:
    found = find_reason(BY_LETTER[letter], machine(**changes), device, quick=False)
    assert found is None if reason is None else found is not None and reason in found


def test_quick_steps_need_little_memory() -> None:
    assert find_reason(BY_LETTER["d"], machine(gpu_gigabytes_free=3.0, host_gigabytes_free=1.5), "cuda", True) is None


# ---- steps and their time


def test_steps_are_chosen_by_letter_and_run_in_the_order_of_the_plan() -> None:
    assert [step.letter for step in select_steps("")] == list("abcdefghi")
    assert [step.letter for step in select_steps("e, A")] == ["a", "e"]
    with pytest.raises(UserError, match="--steps=a,x: unknown step 'x'; known: a,b,c,d,e,f,g,h,i"):
        select_steps("a,x")


def test_time_that_a_step_leaves_over_goes_to_those_after_it() -> None:
    first, second, third = (Step(letter, "", "", share) for letter, share in zip("xyz", (10, 20, 70), strict=True))
    assert time_limit(first, [second, third], 200.0) == 20
    assert time_limit(second, [third], 180.0) == 40
    assert time_limit(second, [third], 198.0) == 44  # the first took 2 of its 20
    assert time_limit(third, [], 55.0) == 55


FAKES = {
    "good": "report(headline='all well')",
    "wrong": "report(rows=[1]); raise ValueError('two lines\\nof text')",
    "slow": "report(rows=[1, 2]); import time; time.sleep(600)",
    "dead": "report(rows=[1]); import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "absent": "report(skipped='a tool is not installed')",
    "late": "report(rows=[1], stopped='stopped by the time limit after 1 row')",
    "silent": "pass",
}
PROGRAM = """
import json, os, sys
settings = json.loads(sys.argv[1])
contents = {}
def report(**values):
    contents.update(values)
    open(settings["result"], "w").write(json.dumps(contents))
"""


def fake_steps(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[Step]:
    """Steps whose processes do what FAKES says."""

    def command(step: Step, settings: dict[str, Any]) -> list[str]:
        return [sys.executable, "-c", PROGRAM + FAKES[step.title], json.dumps(settings)]

    monkeypatch.setattr(running, "child_command", command)
    return [Step(letter, name, "", 1.0) for letter, name in zip("abcdefg", names, strict=False)]


def make_run(folder: Path, seconds: float = 60.0) -> Run:
    log = folder / "out.log"
    log.write_bytes(b"")
    return Run("cpu", True, time.monotonic() + seconds, folder, folder / "out.json", log, {"machine": {}})


def test_a_step_that_fails_dies_or_hangs_loses_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = fake_steps(monkeypatch, "wrong", "slow", "dead", "absent", "late", "silent", "good")
    lines: list[str] = []
    monkeypatch.setattr(running, "time_limit", lambda step, waiting, left: 5.0 if step.title == "slow" else 60.0)
    results = run_all(make_run(tmp_path), steps, {}, lines.append, {})
    found = {result["title"]: result for result in results.values()}
    assert {title: result["status"] for title, result in found.items()} == {
        "wrong": "failed", "slow": "timed out", "dead": "failed", "absent": "skipped", "late": "done", "silent": "done",
        "good": "done",
    }  # fmt: skip
    assert found["wrong"]["rows"] == [1] and "of text" in found["wrong"]["reason"]
    assert found["slow"]["rows"] == [1, 2] and found["slow"]["reason"] == "killed after 5 s"
    assert found["dead"]["rows"] == [1] and found["dead"]["reason"] == "died of SIGSEGV"
    assert found["absent"]["reason"] == "a tool is not installed"
    assert "stopped by the time limit after 1 row" in running.summarize(found["late"])
    assert json.loads((tmp_path / "out.json").read_text())["steps"].keys() == results.keys()
    assert not succeeded(results)
    assert succeeded({name: found[name] for name in ("good", "late", "absent", "silent")})
    assert not succeeded({"x": {"status": "skipped", "reason": "no CUDA GPU"}})


def test_results_are_written_as_each_step_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = fake_steps(monkeypatch, "good", "wrong", "good")
    written: list[list[str]] = []
    run = make_run(tmp_path)

    def say(line: str) -> None:
        if run.output.exists():
            written.append(sorted(json.loads(run.output.read_text())["steps"]))

    run_all(run, steps, {}, say, {})
    assert written == [["a"], ["a"], ["a", "b"], ["a", "b"], ["a", "b", "c"]]


def test_no_step_begins_after_the_end_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = fake_steps(monkeypatch, "good", "good")
    results = run_all(make_run(tmp_path, 0.0), steps, {"b": "no nvcc on PATH"}, lambda line: None, {})
    assert results["a"]["reason"] == "the time of --minutes is used up" and results["b"]["reason"] == "no nvcc on PATH"


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_what_a_step_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import subprocess, time; p = subprocess.Popen(['sleep', '600']); report(pid=p.pid); time.sleep(600)"
    monkeypatch.setitem(FAKES, "parent", code)
    (step,) = fake_steps(monkeypatch, "parent")
    result = run_step(make_run(tmp_path), step, 12.0)
    assert result["status"] == "timed out"
    state = Path(f"/proc/{result['pid']}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_step_is_asked_to_stop_before_it_is_killed(tmp_path: Path) -> None:
    context = Context("cpu", True, time.time(), time.time() + 100, tmp_path, tmp_path / "a.json")
    assert not context.is_late("1 row", needed=50.0) and context.is_late("1 row", needed=101.0)
    context.add("rows", {"n": 1})
    context.add("rows", {"n": 2})
    expected = {"stopped": "stopped by the time limit after 1 row", "rows": [{"n": 1}, {"n": 2}]}
    assert json.loads((tmp_path / "a.json").read_text()) == expected


@pytest.mark.parametrize(("change", "kept"), [({}, ["b"]), ({"card": "another"}, []), ({"python": "3.13"}, [])])
def test_results_of_other_steps_are_kept_if_the_machine_is_the_same(
    change: dict[str, str], kept: list[str], tmp_path: Path
) -> None:
    before = {"machine": GOOD | change, "steps": {"a": {"status": "done"}, "b": {"status": "done"}}}
    (tmp_path / "gpu.json").write_text(json.dumps(before))
    assert list(earlier_results(tmp_path / "gpu.json", GOOD, ["a"])) == kept
    assert earlier_results(tmp_path / "none.json", GOOD, ["a"]) == {}
    (tmp_path / "bad.json").write_text("[")
    assert earlier_results(tmp_path / "bad.json", GOOD, ["a"]) == {}


# ---- the program


def run_main(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, options)
    return result.exit_code, result.output


def test_an_unknown_step_or_device_ends_at_once(tmp_path: Path) -> None:
    for options, words in (
        (["--steps=q"], "--steps=q: unknown step 'q'; known: a,b,c"),
        (["--device=tpu"], "tpu"),
        (["--minutes=0"], "0"),
        ([f"--output={tmp_path / 'file' / 'x.json'}"], "choose another --output"),
    ):
        (tmp_path / "file").write_text("")
        code, output = run_main(*options)
        assert code == 2 and words in output and len(output.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_step_says_so_and_the_exit_code_is_1(tmp_path: Path) -> None:
    code, output = run_main("--device=cuda", f"--output={tmp_path / 'gpu.json'}")
    assert code == 1
    assert output.count("problem: ") == 1 and "finds no CUDA GPU here; use --device=cpu for a dry run" in output
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert list(written["steps"]) == list("abcdefghi")
    assert {step["reason"] for step in written["steps"].values()} == {"no CUDA GPU"}
    assert torch.__version__.startswith(written["machine"]["packages"]["torch"].split("+")[0])


def test_other_steps_go_on_where_one_lacks_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_steps(monkeypatch)
    monkeypatch.setattr(running, "child_command", lambda step, settings: [sys.executable, "-c", "print('ran')"])
    lacking = machine(nvcc=None, packages={"faster-coco-eval": None}, gpu_gigabytes_free=10.0)
    monkeypatch.setattr("benchmarks.gpu.__main__.describe_machine", lambda device, seconds: lacking)
    code, output = run_main("--device=cuda", f"--output={tmp_path / 'gpu.json'}")
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert code == 1 and "problem: there is a GPU, but no nvcc on PATH" in output
    assert "".join(letter for letter, step in steps.items() if step["status"] == "skipped") == "acde"
    assert "".join(letter for letter, step in steps.items() if step["status"] == "done") == "bfghi"


# ---- what the steps read


def test_failures_are_listed_by_operation() -> None:
    failed = {
        "tests/test_ops_cuda.py::test_opcheck_on_a_gpu[mask_iou]": {"message": "one"},
        "tests/test_ops_cuda.py::test_pooling_serves_every_type[gpu-roi_align-torch.float16]": {"message": "two"},
        "tests/test_ops_cuda.py::test_opcheck_with_gradients[gpu-roi_align]": {"message": "three"},
        "tests/test_device.py::test_ten_steps[cuda-rpn]": {"message": "four"},
    }
    found = by_operation(failed)
    assert {name: [each["message"] for each in rows] for name, rows in found.items()} == {
        "mask_iou": ["one"],
        "roi_align": ["two", "three"],
        "test_ten_steps": ["four"],
    }


def test_findings_of_the_sanitizer_are_told_from_its_other_lines() -> None:
    text = (
        "========= COMPUTE-SANITIZER\n"
        "========= Invalid __global__ write of size 4 bytes\n"
        "=========     at nms_round+0x10\n"
        "=========     by thread (0,0,0) in block (0,0,0)\n"
        "========= \n"
        "========= Error: Race reported between Write access and Read access [8 hazards]\n"
        "========= Invalid __global__ write of size 4 bytes\n"
        "========= ERROR SUMMARY: 2 errors\n"
        "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"
    )
    assert [line[:12] for line in find_errors(text)] == ["Invalid __gl", "Error: Race "]
    assert find_errors("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n") == []


def test_warnings_and_the_first_error_of_a_build_are_found() -> None:
    line = "x.cu(3): warning #177-D: unused"
    output = f"{line}\n{line}\ny.h:1: warning: b\nx.cu(9): error: no\nerror: z"
    assert find_warnings(output) == [line, "y.h:1: warning: b"]
    assert find_error(output) == "x.cu(9): error: no" and find_error("") == "the build failed"


CRASHING = """
import os
import pytest

def test_first(): pass
def test_fails(): assert 1 == 2
def test_dies(): os._exit(3)
def test_spoils(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
@pytest.mark.skip(reason="not here")
def test_skipped(): pass
@pytest.fixture
def broken(): raise ValueError("no fixture")
def test_without_fixture(broken): pass
def test_last(): pass
"""


def test_tests_go_on_after_one_that_kills_the_process(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(CRASHING)
    log = tmp_path / "log.jsonl"
    environment = os.environ | {VARIABLE: str(log), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.gpu.report_plugin", "-p", "no:cacheprovider"]
    codes = [
        subprocess.run([*command, "test_it.py"], cwd=tmp_path, env=environment, capture_output=True).returncode
        for _ in range(4)
    ]
    assert codes[0] == 3 and codes[3] == 5  # died, then nothing was left
    tests = {name.split("::")[1]: test for name, test in read_log(log).items()}
    assert {name: test["outcome"] for name, test in tests.items()} == {
        "test_first": "passed", "test_fails": "failed", "test_dies": "crashed", "test_spoils": "failed",
        "test_skipped": "skipped", "test_without_fixture": "failed", "test_last": "passed",
    }  # fmt: skip
    assert "assert 1 == 2" in tests["test_fails"]["message"] and "not here" in tests["test_skipped"]["message"]
    assert "no fixture" in tests["test_without_fixture"]["message"]


def test_work_moves_with_every_tensor_in_its_arguments() -> None:
    seen: list[Any] = []
    one = torch.zeros(2)
    work = Work(lambda *arguments: seen.extend(arguments), (one, [one, 3], Windows(one, one, one), "text"))
    work.to(torch.device("meta"))()
    first, (listed, number), windows, text = seen
    assert {tensor.device.type for tensor in (first, listed, *windows)} == {"meta"} and (number, text) == (3, "text")
    assert isinstance(windows, Windows) and one.device.type == "cpu"
