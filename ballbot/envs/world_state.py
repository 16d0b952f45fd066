"""The exact state of a world: everything that decides its future, and whether it is of this world."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ballbot.envs.checks import check_state_array
from ballbot.envs.config import WorldConfig, paid_in_older
from ballbot.envs.mjcf import is_mjcf
from ballbot.envs.model import physics_digest
from ballbot.envs.random_streams import WORDS, pack_streams, second_stream, unpack_streams

if TYPE_CHECKING:
    from ballbot.envs.world import World

STATE_ARRAYS = ("elapsed", "time_limit", "actions", "term_sums", "obs")
UNSAID = ("camera_interval", "camera_resolution", "stagger_cameras", "stagger_first_episodes")
"""Options of which states of version 0.1 said nothing, or said it with the cameras' own."""


def get_state(world: World) -> dict[str, Any]:
    """Everything that decides the future: arrays and plain types only, so that it can go into a checkpoint."""
    return {
        "options": state_options(world),
        "simulations": world.physics.get_state(),
        "streams": pack_streams(world.streams),
        "second_streams": pack_streams(world.told.streams),
        "command": world.told.get_state(),
        "num_diverged": world.num_diverged,
        **({} if world.curriculum is None else {"curriculum": world.curriculum.levels.copy()}),
        **({} if world.range_shares is None else {"range_shares": world.range_shares.levels.copy()}),
        **({"learned": world.learned.copy()} if world.learns else {}),
        **({"chance_streams": pack_streams(world.chances)} if world.takes_chances else {}),
        **world.motors.get_state(),
        **({} if world.senses is None else {"senses": world.senses.get_state()}),
        **({} if world.torque_noise is None else {"torque_noise": world.torque_noise.get_state()}),
        **({} if world.cameras is None else {"cameras": world.cameras.get_state()}),
        **({} if world.history is None else {"history": world.history.get_state()}),
        **({"progress": world.progress} if world.config.final_rewards else {}),
        **{name: getattr(world, name).copy() for name in STATE_ARRAYS},
    }


def set_state(world: World, state: dict[str, Any]) -> None:
    """Restore what ``get_state`` returned, in a world of the same config.

    Raises:
        ValueError: the state is damaged, or of another world; nothing was changed.
    """
    if not isinstance(state, dict) or not isinstance(state.get("options"), dict):
        raise ValueError(f"set_state needs what get_state() returned, got {type(state).__name__}")
    _check_options(world, state["options"])
    # Everything is checked before anything is changed.
    physics = world.physics.check_state(state.get("simulations"))
    streams = _check_streams(world, state, "streams")
    older = "second_streams" not in state and "command" not in state  # from before there were these
    if older:
        others = [second_stream(words.tolist()) for words in pack_streams(streams).view(np.uint64)]
    else:
        others = _check_streams(world, state, "second_streams")
    chances = _check_streams(world, state, "chance_streams") if world.takes_chances else []
    senses = None if world.senses is None or not chances else world.senses.check_state(state.get("senses"))
    noise = None
    if world.torque_noise is not None and chances:
        noise = world.torque_noise.check_state(state.get("torque_noise"))
    behind = world.motors.check_state(state)
    told = None if older else world.told.check_state(state.get("command"))
    arrays = {name: check_state_array(state, name, getattr(world, name)) for name in STATE_ARRAYS}
    images = None if world.cameras is None else world.cameras.check_state(state.get("cameras"))
    history = None if world.history is None else world.history.check_state(state)
    levels = None if world.curriculum is None else world.curriculum.check_state(state)
    shares = None if world.range_shares is None else world.range_shares.check_state(state, "range_shares")
    learned = check_state_array(state, "learned", world.learned) if world.learns else None
    progress = state.get("progress") if world.config.final_rewards else 0.0
    if not isinstance(progress, float) or not 0 <= progress <= 1:
        raise ValueError(f"state 'progress' is {progress!r}, expected a number from 0 to 1: it is damaged")
    num_diverged = state.get("num_diverged")
    if isinstance(num_diverged, bool) or not isinstance(num_diverged, int) or num_diverged < 0:
        raise ValueError(f"state 'num_diverged' is {num_diverged!r}, expected a count: it is damaged")

    world.physics.set_state(physics)
    world.streams, world.told.streams, world.chances = streams, others, chances
    world.num_diverged = num_diverged
    for name, array in arrays.items():
        getattr(world, name)[:] = array
    world.physics.come_upon(world.elapsed - 1)  # as in the step before
    world.robots = world.physics.robot_state()
    if told is not None:
        world.told.set_state(told)
    elif streams:
        world.told.start(np.arange(world.num), world.robots)
        world.told.age[:] = world.elapsed
    world.set_progress(progress)
    if behind is not None:
        world.motors.behind[:] = behind
    if world.senses is not None and senses is not None:
        world.senses.set_state(senses, world.chances)
    if world.torque_noise is not None and noise is not None:
        world.torque_noise.begin(world.chances)
        world.torque_noise.set_state(noise)
    if world.cameras is not None and images is not None:
        world.cameras.set_state(images)
    if world.history is not None and history is not None:
        world.history.set_state(history)
    if world.curriculum is not None and levels is not None:
        world.curriculum.levels[:] = levels
    if world.range_shares is not None and shares is not None:
        world.range_shares.levels[:] = shares
    if learned is not None:
        world.learned[:] = learned


def _check_streams(world: World, state: dict[str, Any], name: str) -> list[np.random.Generator]:
    not_started = name in state and np.shape(state[name])[:1] == (0,)
    words = np.empty((0 if not_started else world.num, WORDS), np.int64)
    return unpack_streams(check_state_array(state, name, words))


def state_options(world: World) -> dict[str, Any]:
    """What must be equal for a state to mean the same."""
    return {
        "num_envs": world.num,
        "row": int(world.physics.batch.state.shape[1]),
        "physics": physics_digest(world.physics.model),
        "ground": world.ground.digest(),
        "world": world.config.fingerprint(),
        **({} if world.cameras is None else {"cameras": world.cameras.state_options()}),
    }


def _check_options(world: World, theirs: dict[str, Any]) -> None:
    mine = state_options(world)
    if "world" not in theirs:
        try:
            theirs = _options_of_older(world.config, theirs, mine)
        except TypeError as error:
            raise ValueError(f"state 'options' cannot be read ({error}): it is damaged") from error
    if not isinstance(theirs["world"], dict):
        raise ValueError(f"state 'world' is {theirs['world']!r}, expected options by name: it is damaged")
    was, now = theirs["world"], mine["world"]
    if all(is_mjcf(str(each.get("robot"))) for each in (was, now)):  # not where its file lies: "physics" tells of it
        was = {**was, "robot": now["robot"]}
    defaults = {f.name: f.default for f in fields(WorldConfig) if f.default is not MISSING}
    pairs = [(k, theirs.get(k), mine.get(k)) for k in (theirs.keys() | mine.keys()) - {"world"}]
    pairs += [(k, was.get(k, defaults.get(k)), now.get(k, defaults.get(k))) for k in was.keys() | now.keys()]
    differing = [f"{key} was {then!r}, is {here!r}" for key, then, here in sorted(pairs) if then != here]
    if differing:
        raise ValueError(
            f"this state is of an environment with other options ({'; '.join(differing)}): make the environment "
            "with the options it was saved with"
        )


def _options_of_older(config: WorldConfig, theirs: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """What a state of version 0.1 says, as this version says it."""
    said = dict(theirs)
    options = {f.name: said.pop(f.name) for f in fields(WorldConfig) if f.name in said}
    if options.get("terrain") == "flat":  # its pool had one entry whatever was asked for
        options["num_terrains"] = config.num_terrains
    paid = paid_in_older(said.pop("target_speed", None), said.pop("progress_weight", 1.0))
    if "goal" in said:
        options["motion"] = dict(zip("xy", said.pop("goal"), strict=True))
    options |= {name: getattr(config, name) for name in UNSAID}
    world = WorldConfig(training_rewards=paid, **options)
    return {**said, "ground": mine["ground"], "world": world.fingerprint()}
