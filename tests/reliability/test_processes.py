"""Several processes at once: one run has one writer, and a process that dies takes nothing with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killable import start

from ballbot.ppo import load_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs locks, /proc and gloo")

ROOT = Path(__file__).parents[2]
SIZE = 8 * 8 * 5
TRAINING = [
    *("--num-envs", "8", "--num-steps", "8", "--minibatch-size", "16", "--update-epochs", "1", "--hidden-size", "16"),
    *("--terrain", "flat", "--no-cameras", "--num-threads", "1", "--run-name", "run", "--tilt-limit-deg", "4"),
    *("--checkpoint-interval", str(SIZE), "--eval-interval", str(1000 * SIZE), "--eval-episodes", "2"),
]


@pytest.mark.fault("three trainings into one run at once")
def test_of_trainings_into_one_run_one_goes_on(tmp_path: Path) -> None:
    updates = 60
    options = [*TRAINING, "--total-timesteps", str(updates * SIZE)]
    programs = [start("ppo_ballbot", options, tmp_path) for _ in range(3)]
    outputs = [program.communicate(timeout=200)[0] for program in programs]
    codes = sorted(program.returncode for program in programs)
    assert codes == [0, 2, 2], outputs
    for program, output in zip(programs, outputs, strict=True):
        if program.returncode:
            assert "already holds a run" in output or "another process is training in" in output, output
    run = tmp_path / "runs" / "run"
    rows = (run / "progress.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [SIZE * i for i in range(1, updates + 1)]
    assert load_checkpoint(run / "last.pt")["global_step"] == updates * SIZE


@pytest.mark.fault("the contact fix in six processes at once")
def test_the_contact_fix_in_many_processes_at_once(tmp_path: Path) -> None:
    code = "import mujoco_patch; print(mujoco_patch.ensure().worst_alignment > 0.999999)"
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    programs = [subprocess.Popen(command, cwd=tmp_path, stdout=pipe, text=True) for _ in range(6)]
    assert [program.communicate(timeout=200)[0].strip().endswith("True") for program in programs] == [True] * 6


@pytest.mark.fault("what is compiled, built twice at once while other processes load it")
@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
def test_builds_at_once_harm_neither_each_other_nor_who_loads_what_they_build(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "ballbot", "mujoco_patch"):
        there = ROOT / name
        shutil.copytree(there, copy / name) if there.is_dir() else shutil.copy(there, copy)
    code = (
        "import mujoco_patch; from ballbot.envs import height_rays\n"
        "print(mujoco_patch.ensure().worst_alignment > 0.999999, mujoco_patch.implementation(), "
        "height_rays.load_library() is not None, mujoco_patch.__file__)"
    )
    alone = os.environ | {"PYTHONPATH": str(copy)}

    def run(*command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, *command], cwd=copy, env=alone, stdout=pipe, stderr=pipe, text=True)

    build = ("setup.py", "--quiet", "build_ext", "--inplace", "--force", "--build-temp")
    builds = [run(*build, str(tmp_path / f"temp{i}")) for i in range(2)]
    loads = [run("-c", code) for _ in range(4)]
    for program in (*builds, *loads, run("-c", code)):
        output, errors = program.communicate(timeout=200)
        assert program.returncode == 0, errors
    assert output.split()[:3] == ["True", "c", "True"] and str(copy) in output, output


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(x) for x in found]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.fault("one of two ranks killed (SIGKILL): the other one says so and ends")
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_whose_partner_is_killed_says_so_in_a_line(tmp_path: Path, victim: int) -> None:
    """Without torchrun's agent, which may stop the other one before it notices."""
    meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    options = [*TRAINING, "--total-timesteps", "100000000"]
    ranks = [start("ppo_ballbot", options, tmp_path, RANK=str(i), LOCAL_RANK=str(i), **meet) for i in range(2)]
    run, end = tmp_path / "runs" / "run", time.monotonic() + 150
    while not (run / "last.pt").exists():
        assert time.monotonic() < end and all(rank.poll() is None for rank in ranks)
        time.sleep(0.1)
    ranks[victim].kill()
    output = ranks[1 - victim].communicate(timeout=120)[0]
    ranks[victim].communicate()
    assert ranks[1 - victim].returncode == 2, output[-3000:]
    said = [line for line in output.splitlines() if line.startswith("error")]
    assert len(said) == 1 and f"process {1 - victim} of 2 lost contact" in said[0], output[-3000:]
    assert "Traceback" not in output and load_checkpoint(run / "last.pt")["global_step"] >= SIZE


@pytest.mark.fault("a rank of torchrun killed (SIGKILL), and the run resumed")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_is_killed_ends_the_others_and_what_was_saved_is_there(tmp_path: Path, rank: int) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = start("ppo_ballbot", [*TRAINING, "--total-timesteps", "100000000"], tmp_path, launcher)
    run = tmp_path / "runs" / "run"
    end = time.monotonic() + 150
    while not (run / "checkpoints" / f"step_{2 * SIZE}.pt").exists() and not (run / "last.pt").exists():
        assert time.monotonic() < end and program.poll() is None, program.communicate()[0]
        time.sleep(0.1)
    ranks = [pid for pid in children(program.pid) if b"ppo_ballbot" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ranks) == 2
    victim = next(pid for pid in ranks if b"RANK=%d" % rank in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    os.kill(victim, signal.SIGKILL)
    output = program.communicate(timeout=120)[0]
    assert program.returncode != 0
    assert "Signal 9" in output, output[-3000:]  # torchrun tells which one, and stops the other
    saved = load_checkpoint(run / "last.pt")["global_step"]
    assert saved >= SIZE
    resume = ["--resume", "runs/run", "--total-timesteps", str(saved + 2 * SIZE)]
    again = start("ppo_ballbot", resume, tmp_path, launcher)
    output = again.communicate(timeout=200)[0]
    assert again.returncode == 0, output
    assert load_checkpoint(run / "last.pt")["global_step"] == saved + 2 * SIZE
