"""Processes that learn as one: started by torchrun as users do, or forked by a server that has imported everything.

Each writes beside the run directory what it ends with, rank<index>.pt.  Run as a script, this is what torchrun starts,
with a run directory, settings in JSON, and what to resume or "".
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from toy import BATCH, TOY, PointEnv, SplitEnv, cartpole

from ballbot.ppo import PPOConfig, train
from ballbot.ppo.distributed import rank

SETTINGS = TOY | {"total_timesteps": 6 * BATCH, "eval_interval": 10**6, "normalize_rewards": True}
TIMEOUT = 120.0


def torchrun(run_dir: Path, resume: str = "", processes: int = 2, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Learn as users do, to the end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [__file__, str(run_dir), json.dumps(SETTINGS | changes), resume]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=env)


def forked(run_dir: Path, resume: str = "", processes: int = 2, **changes: Any) -> None:
    """The same, several seconds sooner."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "ballbot.ppo", "gymnasium.vector"])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    ranks = []
    for index in range(processes):
        variables = {name: str(value) for name, value in (shared | {"RANK": index, "LOCAL_RANK": index}).items()}
        ranks.append(context.Process(target=learn, args=(run_dir, SETTINGS | changes, resume, variables), daemon=True))
    try:
        for process in ranks:
            process.start()
        while any(process.exitcode is None for process in ranks):
            running = [process.sentinel for process in ranks if process.exitcode is None]
            assert wait(running, TIMEOUT), f"no process ended within {TIMEOUT:g} s"
            assert not any(process.exitcode for process in ranks)  # the others would wait for one that is gone
    finally:
        for process in ranks:
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * processes  # what they said is on standard error


def learn(run_dir: Path, settings: dict[str, Any], resume: str, variables: dict[str, str] | None = None) -> None:
    """Be one of the processes.

    Args:
        run_dir: of all.
        settings: of ``PPOConfig``; also "fail_rank", whose simulator breaks, and "cartpole_mode", to learn CartPole.
        resume: a checkpoint, or "".
        variables: what torchrun would set in the environment.
    """
    os.environ.update(variables or {})
    torch.set_num_threads(1)
    fail_rank, cartpole_mode = settings.pop("fail_rank", None), settings.pop("cartpole_mode", None)
    seen: list[torch.Tensor] = []

    class Env(PointEnv):
        def _out(self, x: Any) -> Any:
            if self.num_envs == 2 and fail_rank is None:
                seen.append(torch.from_numpy(x.copy()))
            return super()._out(x)

        def step(self, actions: Any) -> Any:
            if rank() == fail_rank and len(self.received) > 20:
                raise ValueError("the simulator of one process broke")
            return super().step(actions)

    make: Any = Env
    make_eval: Any = PointEnv
    if settings.get("value_only"):
        make = make_eval = SplitEnv
    if cartpole_mode is not None:
        make = make_eval = lambda num_envs: cartpole(num_envs, AutoresetMode[cartpole_mode])
    config = PPOConfig(**settings)
    result = train(config, make, make_eval, run_dir=run_dir, resume=resume or None, console=False)
    found = {"agent": result.agent.state_dict(), "step": result.global_step, "seen": seen}
    torch.save(found, run_dir.parent / f"rank{rank()}.pt")


if __name__ == "__main__":
    atexit.register(lambda: os.write(2, b"threads at exit: %d\n" % len(os.listdir("/proc/self/task"))))
    learn(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
