"""Settings of all tests, and the place where whole programs are run."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Tests run many small operations: threads that wait for each other on a busy machine cost ten times what they save.
# Set before PyTorch is imported; programs that the tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Deterministic runs on a GPU need this before anything there multiplies matrices.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Where programs remember which code the user trusts: not the developer's own folder.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="smallobjects-tests-")

# Machines that run the tests are slow and shared: an example that takes long is no failure.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def nothing_logged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets readers log the first case of each rule again."""
    from datasets import checks

    monkeypatch.setattr(checks, "_logged", set())


@pytest.fixture(params=["native", "definition"])
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test twice: with the kernels, and with the plain definitions that serve where they are missing."""
    from datasets.synthetic import _native as scenes
    from maskrcnn.ops import _native

    if request.param == "definition":
        monkeypatch.setattr(_native, "LOADED", frozenset())
        monkeypatch.setattr(scenes, "LIBRARY", None)


@pytest.fixture(scope="session")
def tiny_ellipses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and three test images of 64 x 64; to be read only."""
    from programs_toy import make_ellipses

    return make_ellipses(tmp_path_factory.mktemp("data") / "ellipses")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_ellipses: Path) -> Path:
    """A working directory with settings for a narrow detector and an own copy of the ellipses."""
    from programs_toy import settle

    monkeypatch.chdir(tmp_path)
    return settle(tmp_path, tiny_ellipses)
