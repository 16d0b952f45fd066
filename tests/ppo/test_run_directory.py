"""What a run leaves in its directory, whoever disturbs it: other runs, signals, damaged files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import BATCH, TOY, PointEnv, assert_same_weights, curve, run

from ballbot.ppo import PPOConfig, RunDirectoryError, evaluate, load_agent, load_checkpoint, train
from ballbot.ppo.interrupt import StopSignal
from ballbot.ppo.run_dir import git_commit, lock_run_dir


class TestRunDirectory:
    def test_holds_what_it_should(self, finished: Path) -> None:
        names = {p.name for p in finished.iterdir()}
        assert {"config.json", "progress.csv", "checkpoints", "last.pt", "best.pt"} <= names
        assert any(name.startswith("events.out.tfevents") for name in names)
        content = json.loads((finished / "config.json").read_text())
        assert content["ppo"]["hidden_size"] == 8
        assert content["env_metadata"] == {"layout": "v1"}
        assert {"torch", "numpy", "gymnasium", "python"} <= content["versions"].keys()
        first, *_, last = curve(finished)
        assert first["losses/value_loss"] == ""  # the first rollout only measures the observations
        assert float(last["reward/position"]) < 0
        assert last["eval/return_mean"] != ""
        assert float(last["charts/diverged"]) == 0

    def test_tensorboard_has_the_usual_tags(self, finished: Path) -> None:
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = accumulator.EventAccumulator(str(finished)).Reload()
        tags = set(events.Tags()["scalars"])
        assert {
            "charts/episodic_return",
            "charts/SPS",
            "losses/approx_kl",
            "losses/explained_variance",
        } <= tags
        assert [e.step for e in events.Scalars("charts/learning_rate")] == [BATCH * i for i in range(1, 11)]

    def test_best_is_the_best_evaluation(self, finished: Path) -> None:
        returns = {
            int(r["global_step"]): float(r["eval/return_mean"]) for r in curve(finished) if r["eval/return_mean"]
        }
        best = load_checkpoint(finished / "best.pt")
        assert returns[best["global_step"]] == max(returns.values())
        assert PPOConfig().policy_average is not None, "else the next lines say nothing about the average"
        again = evaluate(load_agent(finished / "best.pt"), PointEnv(2), 2, PPOConfig().eval_seed)
        assert again["return_mean"] == max(returns.values())
        assert (finished / "best.pt").stat().st_size < (finished / "last.pt").stat().st_size

    def test_two_runs_do_not_mix(self, finished: Path, tmp_path: Path) -> None:
        with pytest.raises(RunDirectoryError, match="already holds a run"):
            run(finished)
        run(tmp_path / "other", total_timesteps=2 * BATCH, seed=3)
        with pytest.raises(RunDirectoryError, match="already holds a run"):
            run(tmp_path / "other", resume=finished)

    @pytest.mark.parametrize("name", ["config.json", "progress.csv", "last.pt", "best.pt", "checkpoints/step_64.pt"])
    def test_any_trace_of_a_run_keeps_another_one_out(self, tmp_path: Path, name: str) -> None:
        trace = tmp_path / "r" / name
        trace.parent.mkdir(parents=True)
        trace.write_text("precious")
        remedy = (
            "continue it: --resume" if trace.stem in ("last", "step_64") else "delete it, unless it is still training"
        )
        with pytest.raises(RunDirectoryError, match=f"already holds a run .*; choose another name, or {remedy}"):
            run(tmp_path / "r")
        assert trace.read_text() == "precious"

    def test_empty_folders_and_foreign_files_do_no_harm(self, tmp_path: Path) -> None:
        (tmp_path / "r" / "checkpoints").mkdir(parents=True)
        (tmp_path / "r" / "notes.txt").touch()
        run(tmp_path / "r", total_timesteps=2 * BATCH)

    def test_the_commit_is_that_of_the_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def git(*arguments: str) -> str:
            identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
            command = ["git", *identity, *arguments]
            return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

        code, installed = tmp_path / "code.py", tmp_path / "venv" / "code.py"
        installed.parent.mkdir()
        for file in (code, installed):
            file.write_text("1")
        assert git_commit(code) is None
        git("init", "-q")
        git("add", "code.py")
        git("commit", "-q", "-m", "x")
        assert git_commit(code) == git("rev-parse", "HEAD")
        assert git_commit(installed) is None  # lies in the checkout, but is no part of it
        code.write_text("2")
        assert git_commit(code) == git("rev-parse", "HEAD") + "-dirty"

    @pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
    def test_two_processes_do_not_write_to_one_run(self, finished: Path, tmp_path: Path) -> None:
        shutil.copytree(finished, tmp_path / "r")
        before = {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}
        lock = lock_run_dir(tmp_path / "r")
        assert lock is not None
        with pytest.raises(RunDirectoryError, match="another process is training in"):
            run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=12 * BATCH)
        assert {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()} == before
        os.close(lock)
        run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=12 * BATCH)

    @pytest.mark.parametrize(
        "content",
        [
            b"\xff\xfe",
            b"a,b\n1,2\n",
            b"global_step,a\nx,1\n",
            b"global_step,a\n64,1,2\n",
            b"global_step,a\n,1\n",
            b"global_step,a\n64,x\n",
        ],
    )
    def test_a_damaged_progress_file_is_named_and_kept(self, finished: Path, tmp_path: Path, content: bytes) -> None:
        shutil.copytree(finished, tmp_path / "r")
        (tmp_path / "r" / "progress.csv").write_bytes(content)
        with pytest.raises(RunDirectoryError, match=r"progress\.csv is damaged .* rename it"):
            run(tmp_path / "r", resume=tmp_path / "r", total_timesteps=12 * BATCH)
        assert (tmp_path / "r" / "progress.csv").read_bytes() == content

    def test_a_run_outlives_its_console(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read, write = os.pipe()
        os.close(read)  # as by `| head -1`
        with os.fdopen(write, "w") as console:
            monkeypatch.setattr(sys, "stdout", console)
            result = train(PPOConfig(**TOY), PointEnv, run_dir=tmp_path / "r")
        assert result.global_step == 10 * BATCH

    def test_unwritable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RunDirectoryError, match="cannot write"):
            run(tmp_path / "file" / "run")

    def test_old_checkpoints_are_pruned(self, tmp_path: Path) -> None:
        run(tmp_path / "r", keep_checkpoints=2, eval_interval=10**6)
        names = sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir())
        assert names == sorted(f"step_{BATCH * i}.pt" for i in (8, 10))

    def test_evaluation_does_not_touch_training(self, finished: Path, tmp_path: Path) -> None:
        run(tmp_path / "r", eval_interval=BATCH, eval_episodes=5)
        for one, two in zip(curve(tmp_path / "r"), curve(finished), strict=True):
            for key in two:
                assert key.startswith("eval/") or one[key] == two[key], key

    def test_diverged_run_keeps_its_last_checkpoint(self, tmp_path: Path) -> None:
        class Fails(PointEnv):
            def step(self, actions: Any) -> Any:
                obs, reward, *rest = super().step(actions)
                return obs, reward * (np.nan if len(self.received) > 5 * 16 else 1), *rest

        with pytest.raises(RuntimeError, match="environment 0 returned a reward"):
            run(tmp_path / "r", Fails)
        assert load_checkpoint(tmp_path / "r" / "last.pt")["global_step"] == 4 * BATCH


SLOW_SCRIPT = """
import signal, sys, time
# whoever runs the tests may ignore these (nohup, background jobs), and children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, {toy!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from toy import PointEnv, run
class Slow(PointEnv):
    def step(self, actions):
        time.sleep(float(sys.argv[2]))
        return super().step(actions)
path = Path(sys.argv[1])
run(path, Slow, resume=path if len(sys.argv) > 3 else None, checkpoint_interval=10**6, eval_interval=10**6)
"""


ASYNC = """
import gymnasium as gym
def make(num_envs):
    mode = gym.vector.AutoresetMode.SAME_STEP
    return gym.vector.AsyncVectorEnv([lambda: gym.make("Pendulum-v1")] * num_envs, autoreset_mode=mode)
"""


class TestSignals:
    def start(
        self, run_dir: Path, delay: float = 0.01, rows: int = 3, script: str = SLOW_SCRIPT
    ) -> subprocess.Popen[str]:
        script = script.format(toy=str(Path(__file__).parent))
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(run_dir), str(delay)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,
        )
        for _ in range(600):
            curve = run_dir / "progress.csv"
            if curve.exists() and len(curve.read_text().splitlines()) > rows:
                return process
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        process.kill()
        raise AssertionError("no progress in a minute")

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
    def test_saves_and_can_be_continued_to_the_last_bit(
        self, finished: Path, tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        process = self.start(tmp_path / "r")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        step = load_checkpoint(tmp_path / "r" / "last.pt")["global_step"]
        assert 0 < step < 10 * BATCH
        assert len(curve(tmp_path / "r")) == step // BATCH
        run(tmp_path / "r", resume=tmp_path / "r")
        drop = ("eval/",)
        strip = [{k: v for k, v in row.items() if not k.startswith(drop)} for row in curve(finished)]
        mine = [{k: v for k, v in row.items() if not k.startswith(drop)} for row in curve(tmp_path / "r")]
        assert mine == strip
        assert_same_weights(tmp_path / "r" / "last.pt", finished / "last.pt")

    def test_environments_in_processes_of_their_own_outlive_ctrl_c(self, tmp_path: Path) -> None:
        """A terminal sends Ctrl-C to all processes."""
        script = SLOW_SCRIPT.replace("run(path, Slow,", "run(path, make,").replace("path = Path", ASYNC + "path = Path")
        process = self.start(tmp_path / "r", script=script)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert "Traceback" not in output, output
        assert load_checkpoint(tmp_path / "r" / "last.pt")["global_step"] > 0

    def test_a_signal_counts_though_nobody_reads_the_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def closed(*_: Any) -> int:
            raise OSError(5, "Input/output error")  # a terminal that is gone

        monkeypatch.setattr(os, "write", closed)
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.number == signal.SIGTERM

    def test_nohup_keeps_a_closing_terminal_from_stopping_the_run(self) -> None:
        previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with StopSignal() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert not stop.number
        finally:
            signal.signal(signal.SIGHUP, previous)

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
    def test_a_second_signal_stops_at_once(self, tmp_path: Path, number: signal.Signals, code: int) -> None:
        process = self.start(tmp_path / "r", delay=0.2, rows=1)  # an update takes 16 steps, so 3 s
        process.send_signal(number)
        time.sleep(1.2)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        said = [line for line in output.splitlines() if line.startswith("SIG")]
        assert len(said) == 2 and said[1].startswith(f"{number.name}: stopping at once")
        assert "Traceback" not in output and output.rstrip().endswith(said[1])
        assert not list((tmp_path / "r" / "checkpoints").iterdir())  # which a run that stops in time has one in
        assert load_checkpoint(tmp_path / "r" / "last.pt")["global_step"] == len(curve(tmp_path / "r")) * BATCH
