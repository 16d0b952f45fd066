"""What is installed: six packages are enough, also the oldest that are allowed; the same source makes the same file."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"WANDB_MODE": "offline"}
"""Variables with which a new environment finds nothing but what is installed in it."""
TESTING = ["pytest", "pytest-timeout", "hypothesis"]
TRAINING = [
    *("--num-envs", "8", "--num-steps", "16", "--minibatch-size", "32", "--num-terrains", "2", "--num-threads", "1"),
    *("--total-timesteps", "3000", "--eval-episodes", "2", "--eval-interval", "3000", "--tilt-limit-deg", "4"),
]


@pytest.fixture(autouse=True)
def only_with_torture(torture: bool) -> None:
    if not torture:
        pytest.skip("installs packages: pytest --torture")


def project() -> dict[str, Any]:
    """Of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def oldest(dependencies: list[str]) -> list[str]:
    """Each in the oldest version allowed; of those named twice the newer one, which comes last."""
    named = {re.split(r"[<>=]", dependency)[0]: dependency for dependency in dependencies}
    return [dependency.replace(">=", "==") + ".*" for dependency in named.values()]


def install(folder: Path, *packages: str) -> Path:
    """The Python of a new environment with these."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    for command in (["install", "--quiet", *packages], ["check"]):
        subprocess.run([str(python), "-m", "pip", *command], env=ALONE, check=True)
    return python


def try_script(python: Path, folder: Path, script: str, *options: str) -> None:
    """One of experiments/, in this folder."""
    command = [str(python), str(ROOT / "experiments" / f"{script}.py"), *options]
    ended = subprocess.run(command, cwd=folder, env=ALONE, capture_output=True, text=True)
    assert ended.returncode == 0, (script, ended.stdout[-2000:], ended.stderr[-2000:])


def pinned(package: str) -> str:
    """The version that constraints.txt names."""
    found = re.search(rf"^{package}==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found.group()


def try_hostile_files(python: Path) -> None:
    """Those of the tests, read by what is installed there."""
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *TESTING], env=ALONE, check=True)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/reliability/test_hostile_files.py"]
    ended = subprocess.run(command, cwd=ROOT, env=ALONE, capture_output=True, text=True)
    assert ended.returncode == 0 and " passed" in ended.stdout, ended.stdout[-3000:]


@pytest.mark.fault("six packages alone, the oldest and the newest: training, evaluating, collecting, pretraining")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lowest", [True, False])
def test_six_packages_train_the_oldest_and_the_newest_that_are_allowed(tmp_path: Path, lowest: bool) -> None:
    """The oldest PyTorch comes with 3 GB of CUDA; as the newest counts the one of constraints.txt, which does not."""
    if lowest and sys.version_info >= (3, 13):
        pytest.skip("the oldest packages are older than this Python")
    core = project()["dependencies"]
    names = {re.split(r"[<>=]", dependency)[0] for dependency in core}
    assert names == {"gymnasium", "mujoco", "numpy", "tensorboard", "torch", "tyro"}
    python = install(tmp_path, str(ROOT), *(oldest(core) if lowest else [pinned("torch")]))
    for script, *options in (
        ("ppo_ballbot", *TRAINING, "--run-name", "run"),
        ("ppo_ballbot", "--resume", "runs/run", "--total-timesteps", "4000"),
        ("evaluate", "--episodes", "2", "--horizon", "100", "--num-terrains", "2"),
        ("collect_depth", "--num-images", "320", "--num-envs", "2", "--num-terrains", "4", "--num-threads", "1"),
        ("pretrain_encoder", "--epochs", "1", "--batch-size", "32", "--channels", "2", "2"),
    ):
        try_script(python, tmp_path, script, *options)
    if lowest:  # PyTorch of that age believes what files say
        try_hostile_files(python)


@pytest.mark.fault("the extras in the oldest versions: exporting, plotting, filming, Weights & Biases")
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the oldest packages are older than this Python")
def test_the_extras_work_in_the_oldest_versions_that_are_allowed(tmp_path: Path) -> None:
    extras = project()["optional-dependencies"]
    names = ("plots", "export", "video", "wandb")
    assert set(extras) == {*names, "dev"}
    packages = oldest([*project()["dependencies"], *(package for name in names for package in extras[name])])
    python = install(tmp_path, f"{ROOT}[{','.join(names)}]", *packages)
    try_script(python, tmp_path, "ppo_ballbot", *TRAINING, "--run-name", "run", "--track")
    assert list((tmp_path / "runs" / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    try_script(python, tmp_path, "plot_training", "runs/run", "--out", "curves.png")
    try_script(python, tmp_path, "evaluate", "runs/run", "--episodes", "2", "--num-terrains", "2", "--report", "report")
    for policy in ("runs/run", "default"):
        try_script(python, tmp_path, "export_policy", policy)
    film = (
        "import numpy as np; from pathlib import Path; from ballbot.evaluation.video import write_video\n"
        "for name in ('a.mp4', 'a.gif'):\n"
        "    write_video(Path(name), iter(np.full((5, 48, 64, 3), 200, np.uint8)), 25.0)"
    )
    subprocess.run([str(python), "-c", film], cwd=tmp_path, env=ALONE, check=True)
    assert (tmp_path / "a.mp4").stat().st_size and (tmp_path / "a.gif").stat().st_size
    try_hostile_files(python)


@pytest.mark.fault("a source distribution made twice")
@pytest.mark.timeout(600)
def test_the_same_source_makes_the_same_distribution(tmp_path: Path) -> None:
    """From two copies, one of which is of other dates and permissions."""
    hashes = set()
    other = shutil.ignore_patterns(".git", ".venv*", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    for name in ("one", "two"):
        source = tmp_path / name / "source"
        shutil.copytree(ROOT, source, ignore=other)
        for path in source.rglob("*") if name == "two" else ():
            path.chmod(path.stat().st_mode & 0o700)
            os.utime(path, (1e9, 1e9))
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
        command = [sys.executable, "-m", "build", "--sdist", "--outdir", str(tmp_path / name), str(source)]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        hashes.add(hashlib.sha256(next((tmp_path / name).glob("*.tar.gz")).read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.fault("known vulnerabilities of the pinned packages, by pip-audit")
@pytest.mark.timeout(600)
def test_no_vulnerability_is_known(tmp_path: Path) -> None:
    python = install(tmp_path, "pip-audit")
    options = ["--vulnerability-service", "osv", "--no-deps", "--disable-pip", "--requirement"]
    command = [str(python), "-m", "pip_audit", *options, str(ROOT / "constraints.txt")]
    ended = subprocess.run(command, capture_output=True, text=True)
    if "ConnectionError" in ended.stderr:
        pytest.skip("the database of vulnerabilities cannot be reached")
    assert ended.returncode == 0, ended.stdout + ended.stderr
