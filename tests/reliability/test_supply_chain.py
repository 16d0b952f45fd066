"""What is installed: six packages are enough, also the oldest that are allowed; the same source makes the same file."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING = [
    *("--num-envs", "8", "--num-steps", "16", "--minibatch-size", "32", "--num-terrains", "2", "--num-threads", "1"),
    *("--total-timesteps", "3000", "--eval-episodes", "2", "--eval-interval", "3000", "--tilt-limit-deg", "4"),
]


@pytest.fixture(autouse=True)
def only_with_torture(torture: bool) -> None:
    if not torture:
        pytest.skip("installs packages: pytest --torture")


def dependencies() -> list[str]:
    """Of the core."""
    found: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return found


def pinned(package: str) -> str:
    """The version that constraints.txt names."""
    found = re.search(rf"^{package}==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found.group()


@pytest.mark.fault("six packages alone, the oldest and the newest: training, evaluating, collecting, pretraining")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lowest", [True, False])
def test_six_packages_train_the_oldest_and_the_newest_that_are_allowed(tmp_path: Path, lowest: bool) -> None:
    """The oldest PyTorch comes with 3 GB of CUDA; as the newest counts the one of constraints.txt, which does not."""
    if lowest and sys.version_info >= (3, 13):
        pytest.skip("the oldest packages are older than this Python")
    names = {re.split(r"[<>=]", dependency)[0] for dependency in dependencies()}
    assert names == {"gymnasium", "mujoco", "numpy", "tensorboard", "torch", "tyro"}
    versions = [d.replace(">=", "==") + ".*" for d in dependencies()] if lowest else [pinned("torch")]
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(ROOT), *versions], check=True)
    subprocess.run([str(python), "-m", "pip", "check"], check=True)
    for script, *options in (
        ("ppo_ballbot", *TRAINING, "--run-name", "run"),
        ("ppo_ballbot", "--resume", "runs/run", "--total-timesteps", "4000"),
        ("evaluate", "--episodes", "2", "--horizon", "100", "--num-terrains", "2"),
        ("collect_depth", "--num-images", "320", "--num-envs", "2", "--num-terrains", "4", "--num-threads", "1"),
        ("pretrain_encoder", "--epochs", "1", "--batch-size", "32", "--channels", "2", "2"),
    ):
        command = [str(python), str(ROOT / "experiments" / f"{script}.py"), *options]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, (script, ended.stdout[-2000:], ended.stderr[-2000:])


@pytest.mark.fault("a source distribution made twice")
@pytest.mark.timeout(600)
def test_the_same_source_makes_the_same_distribution(tmp_path: Path) -> None:
    hashes = set()
    for name in ("one", "two"):
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
        command = [sys.executable, "-m", "build", "--sdist", "--outdir", str(tmp_path / name), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        hashes.add(hashlib.sha256(next((tmp_path / name).glob("*.tar.gz")).read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.fault("known vulnerabilities of the pinned packages, by pip-audit")
@pytest.mark.timeout(600)
def test_no_vulnerability_is_known(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "pip-audit"], check=True)
    options = ["--vulnerability-service", "osv", "--no-deps", "--disable-pip", "--requirement"]
    command = [python, "-m", "pip_audit", *options, str(ROOT / "constraints.txt")]
    ended = subprocess.run(command, capture_output=True, text=True)
    if "ConnectionError" in ended.stderr:
        pytest.skip("the database of vulnerabilities cannot be reached")
    assert ended.returncode == 0, ended.stdout + ended.stderr
