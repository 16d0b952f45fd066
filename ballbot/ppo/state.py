"""Everything a run has to remember: built new, or restored from a checkpoint."""

from __future__ import annotations

import copy
import math
import operator
import random
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from ballbot.errors import SettingsError
from ballbot.ppo import distributed
from ballbot.ppo.agent import Agent
from ballbot.ppo.changes import Changes, changes_since
from ballbot.ppo.checkpoint import CheckpointError, prune_checkpoints, save_checkpoint, write_atomic
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.episodes import EpisodeStatistics
from ballbot.ppo.imitation import Estimating, Lessons, Teacher
from ballbot.ppo.normalizer import RewardScaler
from ballbot.ppo.run_dir import say
from ballbot.ppo.spaces import describe_spaces, shape_of, to_device
from ballbot.ppo.storage import EnvState
from ballbot.ppo.wrapped import state_holder


def training_seed(config: PPOConfig, index: int) -> int:
    """Seed of all training environments, a hash of config.seed and `index`, in [0, 2**30) or behind eval_seed.

    Environment i gets this seed + i, so that seeds of 0 and 1 are to be far apart. Should that range meet the seeds of
    the evaluation, eval_seed to eval_seed + eval_episodes - 1, it is moved behind them: no policy is judged by episodes
    it has trained on.
    """
    seed = int(np.random.SeedSequence((config.seed, index)).generate_state(1)[0]) % 2**30
    behind = config.eval_seed + config.eval_episodes
    return behind if config.eval_seed < seed + config.num_envs and seed < behind else seed


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take over the moments of an Adam; the groups' settings follow from the config and stay.

    Shapes are compared, because the fused kernel reads beyond the end of a moment that is too short.

    Raises:
        Exception: they do not fit, in whatever way.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = [a | {"params": b["params"]} for a, b in zip(own, saved["param_groups"], strict=True)]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    for group in optimizer.param_groups:
        for p in group["params"]:
            moments = optimizer.state.get(p, {})
            shapes = [tuple(moments[name].shape) for name in ("exp_avg", "exp_avg_sq", "step") if name in moments]
            if moments and shapes != [tuple(p.shape), tuple(p.shape), ()]:
                raise ValueError(f"moments have the shapes {shapes}, their parameter {tuple(p.shape)}")


class TrainingState:
    """Networks, optimiser, counters, random generators and environments of one process."""

    def __init__(
        self,
        config: PPOConfig,
        envs: VectorEnv,
        agent: Agent,
        optimizer: torch.optim.Optimizer,
        env_metadata: dict[str, Any],
        seed: int,
        teacher: Teacher | None = None,
    ) -> None:
        """Start a run: reset the environments, set all counters to 0.

        Args:
            config: PPO settings.
            envs: environments of this process.
            agent: networks to train.
            optimizer: of the agent.
            env_metadata: what the observations mean; stored, and compared on `restore`.
            seed: of the environments and exploration of all processes.
            teacher: whom the policy imitates at first.
        """
        self.config, self.envs, self.env_metadata = config, envs, env_metadata
        self._holder = state_holder(envs)
        self.agent, self.optimizer = agent, optimizer
        self.averaged = copy.deepcopy(agent) if config.policy_average is not None else None
        self.device = agent.policy_head.weight.device
        encoders = [part.key for part in agent.parts if part.encoder is not None]
        self.spaces = describe_spaces(envs.single_observation_space, envs.single_action_space, encoders)
        self.reward_scaler = RewardScaler(envs.num_envs, config.gamma) if config.normalize_rewards else None
        if self.reward_scaler is not None:
            self.reward_scaler.to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.episodes = EpisodeStatistics(envs.num_envs, config.action_repeat)
        self.learning_rate = config.learning_rate
        self.lessons: Lessons | Estimating | None = None
        if teacher is not None:
            self.lessons = Lessons(teacher, agent, envs.num_envs)
        elif agent.estimate is not None:
            self.lessons = Estimating(np.ones(envs.num_envs, bool))
        self.global_step = 0
        self.best_return: float | None = None
        self.origin: dict[str, Any] | None = None
        """Where the first weights came from, if not from chance: see `Start.origin`."""
        self.new_best = False
        """Whether the best policy of before the resumption cannot be compared with those to come."""
        obs, _ = envs.reset(seed=seed + distributed.own_envs(envs.num_envs).start)
        if (rows := len(agent.flatten(obs, whole=True))) != envs.num_envs:
            raise SettingsError(
                f"reset() of the environments returned {rows} observations, and num_envs is {envs.num_envs}: a wrapper "
                "must not change how many there are"
            )
        self.env_state = EnvState(obs, torch.zeros(envs.num_envs, dtype=torch.bool, device=self.device))

    @property
    def finished(self) -> bool:
        """Whether the run has taken all its steps."""
        return self.global_step >= self.config.total_timesteps

    @property
    def imitating(self) -> bool:
        """Whether the policy still learns from its teacher, or its estimator."""
        return self.global_step < self.config.imitation_timesteps

    @property
    def policy(self) -> Agent:
        """The agent to evaluate and deploy: the running average if there is one, else the newest."""
        return self.agent if self.averaged is None else self.averaged

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the agent: updates jitter about a good policy, and their mean beats most of them.

        The weight of the past grows from 0 to config.policy_average, so that nothing is left of the random start.
        Observation statistics are the newest: they are an average already. Source of the idea: Polyak & Juditsky 1992,
        "Acceleration of stochastic approximation by averaging"; exponential, because the policy keeps improving.
        """
        if self.averaged is None or self.config.policy_average is None:
            return
        updates = self.global_step // self.config.rollout_size
        past = min(self.config.policy_average, updates / (updates + 10))
        for mean, newest in zip(self.averaged.parameters(), self.agent.parameters(), strict=True):
            mean.lerp_(newest, 1 - past)
        for kept, now in zip(self.averaged.buffers(), self.agent.buffers(), strict=True):
            kept.copy_(now)

    def content(self) -> dict[str, Any] | None:
        """What a checkpoint holds, in the first process; None in the others. Every process must call this."""
        ranks = distributed.gather(self._rank_state())
        if distributed.rank() != 0:
            return None
        return {
            **self._description("training"),
            "agent": self.agent.state_dict(),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate,
            "global_step": self.global_step,
            "best_return": self.best_return,
            "torch_threads": torch.get_num_threads(),
            "ranks": ranks,
        }

    def save(self, run_dir: Path, content: dict[str, Any], numbered: bool) -> None:
        """Write last.pt and, if `numbered`, step_<N>.pt, then delete surplus old ones.

        Raises:
            OSError: one of them cannot be written; the older ones are there.
        """
        directory = run_dir / "checkpoints"
        written = directory / f"step_{self.global_step}.pt"
        # last.pt first: whatever stops the program in between, it is the newest
        save_checkpoint([run_dir / "last.pt"], content)
        if not numbered:
            return
        directory.mkdir(exist_ok=True)  # somebody may have made room
        write_atomic(written, (run_dir / "last.pt").read_bytes())
        prune_checkpoints(directory, self.config.keep_checkpoints, written)

    def policy_content(self) -> dict[str, Any]:
        """What a small checkpoint holds, of `policy` alone, as it is now."""
        policy = {name: x.detach().clone() for name, x in self.policy.state_dict().items()}
        return {**self._description("policy"), "policy": policy, "global_step": self.global_step}

    def restore(self, path: Path, state: dict[str, Any], free_metadata: Collection[str] = ()) -> None:
        """Take over a loaded training checkpoint; `path` is for error messages.

        New episodes start if the observations mean something else now, as they may in `free_metadata`, or if there is
        another number of environments.

        Raises:
            CheckpointError: it was written with other settings, spaces, environments or number of processes.
        """
        try:
            described = self.config, self.agent, self.spaces, self.env_metadata
            changes = changes_since(path, state, *described, free_metadata)
            self.new_best = changes.new_best
            if distributed.rank() == 0:
                for text in changes.settings.values():
                    say(True, f"note: {text}")
            mine = state["ranks"][distributed.rank()]
            self.agent.load_state_dict(state["agent"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["policy"])
            restore_optimizer(self.optimizer, state["optimizer"])
            if not {"learning_rate", "lr_schedule"} & changes.settings.keys():
                self.learning_rate = float(state["learning_rate"])
            self.global_step = operator.index(state["global_step"])
            if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0 and self.global_step >= 0):
                raise ValueError(f"learning_rate is {self.learning_rate}, global_step {self.global_step}")
            self.best_return = None if state["best_return"] is None else float(state["best_return"])
            self.origin = state.get("init_from")
            self._restore_envs(mine, changes)
            # Last: resetting the environments above may have drawn from the global generators.
            torch.set_rng_state(mine["torch"])
            if "device" in changes.settings:  # whose generators have no state in common
                self.generator.manual_seed(training_seed(self.config, self.global_step))
            else:
                self.generator.set_state(mine["generator"])
                if self.device.type == "cuda":
                    torch.cuda.set_rng_state(mine["cuda"], self.device)
            version, internal, gauss = mine["python"]
            random.setstate((version, tuple(internal), gauss))
            generator, keys, position, has_gauss, cached = mine["numpy"]
            if keys.dtype != np.uint32 or keys.shape != (624,) or not 0 <= position <= 624:  # NumPy believes them
                raise ValueError(f"NumPy's random state is {keys.dtype} {keys.shape} at {position}")
            np.random.set_state((generator, keys, position, has_gauss, cached))
            threads = state.get("torch_threads", torch.get_num_threads())
            if distributed.rank() == 0 and threads != torch.get_num_threads():
                say(
                    True,
                    f"note: the run had {threads} threads of PyTorch, now there are {torch.get_num_threads()}: it goes "
                    "on well, but rounds differently from a run that was never interrupted",
                )
        except CheckpointError:
            raise
        except Exception as error:  # whatever it is, the file is at fault: the settings have been compared
            raise CheckpointError(
                f"{path} does not fit this program ({type(error).__name__}: {error}); "
                "resume with the version of the program and the environments that wrote it"
            ) from error

    def _restore_envs(self, mine: dict[str, Any], changes: Changes) -> None:
        other_number = "num_envs" in changes.settings
        if other_number:
            fresh = {name: getattr(self.episodes, name) for name in ("returns", "lengths")}
            mine = mine | {"episodes": mine["episodes"] | fresh}
        self.episodes.set_state(mine["episodes"])
        if self.reward_scaler is not None:
            known = mine["reward_scaler"]
            self.reward_scaler.load_state_dict(
                known | {"discounted": self.reward_scaler.discounted} if other_number else known
            )
        if not other_number and changes.same_meaning and "env_state" in mine and self._holder is not None:
            obs = mine["obs"]
            for name, then, now in (("obs", obs, self.env_state.obs), ("done", mine["done"], self.env_state.done)):
                if shape_of(then) != shape_of(now):
                    raise ValueError(f"{name} is {shape_of(then)} instead of {shape_of(now)}")
            self._holder.set_state(mine["env_state"])
            self.env_state.obs = to_device(obs, self.device)
            self.env_state.done = mine["done"].to(self.device)
            if self.agent.memory_size:
                now = self.agent.new_memories(self.envs.num_envs)
                kept = mine["memory"]
                if shape_of(kept) != shape_of(now) or kept.dtype != torch.float32 or not kept.isfinite().all():
                    raise ValueError(
                        f"memory is {shape_of(kept)} {kept.dtype}, expected finite {shape_of(now)} float32"
                    )
                self.env_state.memory = kept.to(self.device)
            if self.lessons is not None and self.imitating:
                self.lessons.set_state(mine["lessons"])
            return
        if distributed.rank() == 0 and not other_number:  # which has been said
            reason = "observations have changed"
            if changes.same_meaning:
                reason = "these environments cannot restore their state"
            say(True, f"note: {reason}, so new episodes start in all of them")
        seed = training_seed(self.config, self.global_step) + distributed.own_envs(self.envs.num_envs).start
        self.env_state.obs, _ = self.envs.reset(seed=seed)
        self.episodes.returns[:] = 0
        self.episodes.lengths[:] = 0
        if self.reward_scaler is not None:
            self.reward_scaler.discounted.zero_()

    def _description(self, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "config": asdict(self.config),
            "spaces": self.spaces,
            "env_metadata": self.env_metadata,
            **({} if self.origin is None else {"init_from": self.origin}),
        }

    def _rank_state(self) -> dict[str, Any]:
        state = {
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(),
            "python": random.getstate(),
            "obs": self.env_state.obs,
            "done": self.env_state.done,
            "episodes": self.episodes.get_state(),
        }
        if self.env_state.memory is not None:
            state["memory"] = self.env_state.memory
        if self.lessons is not None and self.imitating:
            state["lessons"] = self.lessons.get_state()
        if self.reward_scaler is not None:
            state["reward_scaler"] = self.reward_scaler.state_dict()
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        if self._holder is not None:
            state["env_state"] = self._holder.get_state()
        return state
