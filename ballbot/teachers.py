"""Teachers of the robot: a classical controller, or a trained policy, whose actions another policy learns to imitate.

A teacher may sense what its student does not: fields of ``privileged_fields``, which only training observes.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.controllers import CONTROLLERS, PIDController, controlled_fields, find_controller, make_controller
from ballbot.deployment.shipped import find_policy
from ballbot.encoders import FrozenEncoder
from ballbot.envs.config import WorldConfig, make_command
from ballbot.envs.model import build_model
from ballbot.envs.observations import FIELDS, Layout, layout_of, of_now, whole_row
from ballbot.envs.rig import described
from ballbot.errors import SettingsError
from ballbot.evaluation.trained import trained_encoder, trained_layout, trained_world
from ballbot.observer import BANDWIDTH, ObserverController
from ballbot.ppo import CheckpointError, Policy, PPOConfig
from ballbot.ppo.checkpoint import load_checkpoint, load_with_content, policy_file
from ballbot.ppo.policy import agent_from_state
from ballbot.presets import Settings
from ballbot.runs import recorded_teacher

COPY = "teacher.pt"
"""Name of the file in a run's folder that holds its teacher."""


class RobotTeacher:
    """Acts on a part of what is observed in training; see ``ballbot.ppo.imitation.Teacher``.

    Args:
        actor: (n, size) observations, (n,) where episodes begin -> (n, 3) actions.
        columns: which numbers of "policy" and "privileged", side by side, are its observation.
        memory: what of the actor is its memory: the object whose attributes change from step to step.
        action_repeat: steps of 2 ms for which it held its actions when it learned; None of a controller.
    """

    def __init__(self, actor: Any, columns: NDArray[np.intp], memory: Any, action_repeat: int | None = None) -> None:
        self.actor, self.columns, self._memory, self.action_repeat = actor, columns, memory, action_repeat

    def __call__(self, obs: Any, began: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Actions (n, 3) in [-1, 1]."""
        if isinstance(obs, dict):
            sensed = obs["policy" if "policy" in obs else "proprioception"]
            obs = np.concatenate([sensed, obs["privileged"]], axis=1) if "privileged" in obs else sensed
        actions: NDArray[np.float32] = self.actor(obs[:, self.columns], began)
        return actions

    def get_state(self) -> dict[str, Any]:
        """What it remembers, as arrays and plain numbers."""
        return {name: getattr(self._memory, name) for name in self._names()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of ``get_state``.

        Raises:
            ValueError: it is of another teacher.
        """
        if not isinstance(state, dict):
            raise ValueError(f"what a teacher remembers is a dict, got {type(state).__name__}")
        robots = 0 if isinstance(self._memory, Policy) else -1  # the axis that counts them
        if sizes := [np.shape(value)[robots] for value in state.values() if np.ndim(value)]:
            # with its first step, a teacher begins to remember what it does of each
            self.actor(np.zeros((sizes[0], len(self.columns)), np.float32), np.ones(sizes[0], bool))
        mine, given = ({name: tuple(np.shape(x)) for name, x in each.items()} for each in (self.get_state(), state))
        if mine != given:
            raise ValueError(f"the teacher remembers {mine}, not {given}")
        for name, value in state.items():
            setattr(self._memory, name, value)

    def _names(self) -> list[str]:
        """Attributes that change from step to step: a controller's but for its gains, a policy's memory."""
        if isinstance(self._memory, Policy):
            return ["_memory"]
        return [name for name in vars(self._memory) if name not in {f.name for f in fields(self._memory)}]


def find_teacher(
    name: str | Path, world: WorldConfig, layout: Layout, dt: float, encoder: FrozenEncoder | None = None
) -> RobotTeacher:
    """The controller of this name, or the policy of this name or in this file or run folder, as a teacher.

    Args:
        name: "observer", "foresight", "linear:0.3", "default", or a path.
        world: that its student is trained in.
        layout: of what the student observes there.
        dt: s from an action to the next.
        encoder: of the student's cameras, if it sees.

    Raises:
        CheckpointError, EncoderError, SettingsError: there is no such teacher, it was trained for another command, it
            observes what training does not, or is asked too seldom.
    """
    if isinstance(name, str) and (make := find_controller(name)) is not None:
        if make is PIDController:
            raise SettingsError(
                'teacher "pid" holds the robot upright and goes nowhere: take "observer" or "foresight"'
            )
        actor: Any = make_controller(make, dt, world)
        if isinstance(actor, ObserverController) and dt * BANDWIDTH >= 2:
            step = float(build_model().opt.timestep)
            raise SettingsError(
                f"teacher {name!r} would be asked every {1000 * dt:g} ms (--action-repeat {round(dt / step)}), and is "
                f"stable below {int(2000 / BANDWIDTH)} ms only: use --action-repeat {int(2 / BANDWIDTH / step)} or "
                "less, or another teacher"
            )
        wanted = layout_of("body", make_command(world.command, world.motion).fields, controlled_fields(name))
        return RobotTeacher(actor, _columns(name, wanted, layout, world), actor)
    path = policy_file(find_policy(name, CONTROLLERS))
    return _trained_teacher(name, path, load_checkpoint(path), world, layout, encoder)


def _trained_teacher(
    name: str | Path,
    path: Path,
    state: dict[str, Any],
    world: WorldConfig,
    layout: Layout,
    encoder: FrozenEncoder | None,
) -> RobotTeacher:
    """The policy of this name in a checkpoint that was read, see ``find_teacher``."""
    metadata = state.get("env_metadata")
    policy = Policy(agent_from_state(state, path), metadata if isinstance(metadata, dict) else {}, 0, path)
    its_world = trained_world(policy)
    if (its_world.command, its_world.motion) != (world.command, world.motion):
        raise SettingsError(
            f"teacher {name} was trained for command {_told(its_world)}, and its student is told {_told(world)}: both "
            "must be told the same"
        )
    if its_world.action != world.action:
        raise SettingsError(
            f"teacher {name} was trained with --action {its_world.action}, and its student's actions are of "
            f"{world.action}: both must ask motors for the same"
        )
    had, has = its_world.robot_config.wheels, world.robot_config.wheels
    if had != has:
        raise SettingsError(
            f"teacher {name} drives a robot with {had} wheels, and its student's has {has}: take another"
        )
    eyes = trained_encoder(policy)
    if eyes is not None and (encoder is None or eyes.content_hash != encoder.content_hash):
        raise SettingsError(
            f"teacher {name} sees by the encoder {eyes.content_hash[:16]}, and training observes no images by it: "
            "train with cameras and that encoder (--encoder FILE), or take a teacher without cameras"
        )
    if eyes is not None and its_world.rig != world.rig:
        raise SettingsError(
            f"teacher {name} looks through cameras at other places ({described(its_world.rig)}) than its student "
            f"({described(world.rig)}): train with the same --rig"
        )
    columns = _columns(str(name), trained_layout(policy, its_world, eyes), layout, world)
    held = PPOConfig(**state["config"]).action_repeat
    return RobotTeacher(lambda obs, began: policy.predict(obs, began=began), columns, policy, held)


def teacher_of(
    settings: Settings, encoder: FrozenEncoder | None = None, run_dir: Path | None = None
) -> tuple[RobotTeacher | None, dict[str, bytes]]:
    """The teacher that settings name, and what of it a run keeps: name -> content of a file.

    Args:
        settings: of the run.
        encoder: of the student's cameras, if it sees.
        run_dir: of a run that goes on, which holds the copy.

    Raises:
        CheckpointError: the copy is gone, damaged, or another than the run began with; and as ``find_teacher``.
    """
    if (name := settings.teacher) is None:
        return None, {}
    dt = settings.ppo.action_repeat * float(build_model().opt.timestep)
    world, layout = settings.training_world, settings.layout(encoder)
    if find_controller(name) is not None:
        return find_teacher(name, world, layout, dt, encoder), {}
    if run_dir is None:
        path = policy_file(find_policy(name, CONTROLLERS))
        state, content = load_with_content(path)
    else:  # the original may have learned on
        path = run_dir / COPY
        state, content = _kept(path)
    return _trained_teacher(name, path, state, world, layout, encoder), {COPY: content}


def _kept(copy: Path) -> tuple[dict[str, Any], bytes]:
    """A run's copy of its teacher, if it is what the run began with."""
    try:
        state, content = load_with_content(copy)
    except CheckpointError as error:
        what = "is damaged" if copy.exists() else "is gone"
        raise CheckpointError(f"{copy}, whom this run learns from, {what}: put the original {COPY} back") from error
    then, now = recorded_teacher(copy.parent / "config.json"), hashlib.sha256(content).hexdigest()
    if then not in (None, now):
        raise CheckpointError(
            f"{copy} is not whom this run began to learn from (SHA-256 then {str(then)[:16]}, now {now[:16]}): put the "
            f"original {COPY} back"
        )
    return state, content


def with_kept_teacher(settings: Settings, run_dir: Path) -> Settings:
    """The settings of a run for another one: its teacher is the copy that it keeps, if it keeps one.

    The original may have moved, or learned on.
    """
    copy = run_dir / COPY
    if settings.teacher is None or find_controller(settings.teacher) is not None or not copy.is_file():
        return settings
    return replace(settings, teacher=str(copy))


def _told(world: WorldConfig) -> str:
    return repr(world.command) + (f" with {dict(world.motion)}" if world.motion else "")


def _columns(name: str, wanted: Layout, layout: Layout, world: WorldConfig) -> NDArray[np.intp]:
    """Which numbers of what is observed in training are the fields that a teacher wants."""
    places = whole_row(layout, world.privileged_layout())
    if missing := [field for field in wanted.slices if field not in places]:
        past = any(of_now(field)[1] for field in missing)
        remedy = f"give --privileged-fields {' '.join((*world.privileged_fields, *missing))}"
        if past or not set(missing) <= set(FIELDS):
            what = "with the same --history and --history-changes" if past else "in its --frame"
            remedy = f"train the student {what}"
        raise SettingsError(
            f"teacher {name} observes {', '.join(missing)}, and training does not: {remedy}, or take another teacher"
        )
    return np.concatenate([places[field] for field in wanted.slices])
