"""What a policy was trained for: the world that it knows, and which numbers of an observation it takes for what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ballbot import height_maps, plugins, robot_files
from ballbot.encoders import FrozenEncoder, find_encoder, load_encoder
from ballbot.envs.changes import outdated
from ballbot.envs.commands import COMMANDS
from ballbot.envs.config import WorldConfig
from ballbot.envs.observations import FIELDS, Layout
from ballbot.envs.rewards import ENDINGS, reward_settings
from ballbot.envs.sensors import check_sensing
from ballbot.envs.terrain import TERRAINS, parse_terrain
from ballbot.errors import SettingsError
from ballbot.ppo import Policy
from ballbot.ppo.checkpoint import run_dir_of

ALWAYS = ("observation", "frame", "terrain")
"""Options that ``env_options`` names even at their defaults."""
THE_SAME_FOR_ALL = ("tilt_limit_deg", "integrator")
"""Options that whoever judges policies chooses, whatever they were trained with."""
OF_THE_ROBOT = ("robot", "build", "vary", "sensing")
"""Options that say with which robot, and how well it senses."""
TASK = ("terrain", "ground", "terrain_cell", *OF_THE_ROBOT, "command", "motion", "rewards", "endings")
"""Options that say what there is to do, and with which robot; the others say what it senses and how."""


def trained_world(policy: Policy) -> WorldConfig:
    """The world that a policy was trained for.

    Raises:
        SettingsError: (a ValueError) it is not one of Ballbot-v0's, its checkpoint does not say what it was trained
            on, or names what is not known here.
        PluginError: a plugin that it was trained with is not loaded, or was changed since.
    """
    metadata = policy.metadata
    plugins.require(metadata.get("plugins", {}), str(policy.path))
    if metadata.get("observation") not in ("proprioception", "encoded"):
        raise SettingsError(
            f"{policy.path} does not say what its policy observes: it was not trained on Ballbot-v0, or without "
            "record=Record(env_metadata=...), as ballbot.presets shows"
        )
    for name in ("frame", "terrain", *(["encoder"] if metadata["observation"] == "encoded" else [])):
        if not isinstance(metadata.get(name), str):
            raise SettingsError(
                f"{policy.path} does not say what its policy was trained on ({name} is {metadata.get(name)!r}): use "
                "another checkpoint"
            )
    if unknown := unknown_names(metadata):
        raise SettingsError(
            f"{policy.path} was trained with {', '.join(unknown)}, which this ballbot does not know: load the plugin "
            "that adds it (--plugin FILE), or use the version of ballbot it was trained with"
        )
    run_dir = Path() if policy.path is None else run_dir_of(policy.path)
    metadata = robot_files.as_recorded(metadata, str(policy.path), run_dir)
    try:
        world = WorldConfig.from_metadata(metadata)
    except SettingsError as error:
        raise SettingsError(f"{policy.path} is damaged or of another version ({error}): use another one") from error
    return height_maps.as_recorded(world, metadata.get("height_maps", {}), str(policy.path), run_dir, copies=True)


def unknown_names(metadata: dict[str, Any]) -> list[str]:
    """The parts that a checkpoint's metadata names and nobody has registered, in words."""
    spec = str(metadata["terrain"])
    try:
        parse_terrain(spec)
        unknown = []
    except SettingsError:
        unknown = [f"terrain {spec!r}"] if spec.partition(":")[0] not in TERRAINS else []
    if (command := metadata.get("command", "goal")) not in COMMANDS:
        unknown.append(f"command {command!r}")
    fields = metadata.get("extra_fields", [])
    unknown += [
        f"field {name!r}" for name in (fields if isinstance(fields, (list, tuple)) else ()) if name not in FIELDS
    ]
    for group, known, what in (("rewards", reward_settings(), "reward"), ("endings", ENDINGS, "ending")):
        names = (key.removeprefix(f"{group}.") for key in metadata if key.startswith(f"{group}."))
        unknown += [f"{what} {name!r}" for name in names if name not in known]
    return unknown


def trained_layout(policy: Policy, world: WorldConfig, encoder: FrozenEncoder | None = None) -> Layout:
    """Which numbers of a policy's observation are what.

    Args:
        policy: from ``load_policy``.
        world: that it was trained for, ``trained_world(policy)``.
        encoder: of a policy that sees.

    Raises:
        SettingsError: what it observes has another size.
    """
    blind = world.layout()
    if encoder is None:
        if policy.observation_shape != (blind.size,):
            raise SettingsError(
                f"{policy.path} observes {policy.observation_shape}, which is not frame {world.frame!r} of this "
                f"version with its fields ({', '.join(blind.names)}), {blind.size} numbers: use the version of "
                "ballbot it was trained with"
            )
        return blind
    (size,), one = policy.observation_shape, encoder.architecture.embedding_size
    cameras, rest = divmod(size - blind.size - 1, one)
    if rest or cameras < 1:
        raise SettingsError(
            f"{policy.path} observes {size} numbers, which do not fit embeddings of {one} beside the {blind.size} of "
            f"{', '.join(blind.names)}: give the encoder it was trained with"
        )
    return world.layout((one,) * cameras)


def trained_encoder(policy: Policy, encoder: str | Path | None = None) -> FrozenEncoder | None:
    """The encoder of a policy that sees, None of one that does not.

    Args:
        policy: from ``load_policy``.
        encoder: its file; None looks in the policy's run folder and in ballbot itself.

    Raises:
        SettingsError: it is another encoder, or the policy does not see.
        EncoderError: the encoder cannot be loaded.
    """
    if policy.metadata.get("observation") != "encoded":
        if encoder is not None:
            raise SettingsError(f"--encoder {encoder} is for policies that see, this one was trained without cameras")
        return None
    wanted = policy.metadata["encoder"]
    loaded = find_encoder(wanted, policy.path) if encoder is None else load_encoder(encoder)
    if loaded.content_hash != wanted:
        raise SettingsError(
            f"this policy was trained with the encoder {wanted[:16]}, {encoder} is {loaded.content_hash[:16]}: "
            "give its file by --encoder"
        )
    return loaded


def env_options(policy: Policy, encoder: str | Path | None = None) -> dict[str, Any]:
    """Options of ``BallbotVectorEnv`` under which a policy is judged: the task that it was trained for.

    What is the same for all who are judged, the limit of tilt and the integrator, is left to the caller.

    Args:
        policy: from ``load_policy``.
        encoder: file of its encoder, if it sees; None looks in the policy's run folder and in ballbot itself.

    Raises:
        SettingsError: (a ValueError) the policy is not one of Ballbot-v0's, was trained with another encoder, or with
            a terrain, command, reward or field that is not known here.
        PluginError: a plugin that it was trained with is not loaded, or was changed since.
        EncoderError: the encoder cannot be loaded.
    """
    world = trained_world(policy)
    loaded = trained_encoder(policy, encoder)
    trained_layout(policy, world, loaded)
    names = {key.partition(".")[0] for key in world.fingerprint("task")} - set(THE_SAME_FOR_ALL)
    options = {name: getattr(world, name) for name in (*ALWAYS, *sorted(names - set(ALWAYS)))}
    return options if loaded is None else options | {"encoder": loaded}


def task_of(
    options: dict[str, Any],
    terrain: str | None = None,
    command: str | None = None,
    *,
    robot: str | None = None,
    sensors: str | None = None,
    ground: Mapping[str, Any] | None = None,
    motion: Mapping[str, Any] | None = None,
    build: Mapping[str, Any] | None = None,
    sensing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What there is to do in the world of these options.

    Args:
        options: of ``BallbotVectorEnv``.
        terrain: another ground; options of the ground stay if it is of the same kind.
        command: another command; options of the command, and what is paid, stay if it is the same.
        robot: another robot; its numbers stay if it is the same.
        ground: other options of the ground.
        motion: other options of the command.
        build: other numbers of the robot.
        sensors: others, by name.
        sensing: other values of them.

    Raises:
        SettingsError: there is no such terrain or command.
    """
    before = options.get("terrain", "perlin"), options.get("command", "goal"), options.get("robot", "reference")
    old = outdated(*before, to_terrain=terrain, to_command=command, to_robot=robot)
    task = {name: options[name] for name in TASK if name in options and name not in old}
    if terrain is not None:
        task["terrain"] = terrain
    if command not in (None, before[1]):
        task["command"] = command
    if robot is not None:
        task["robot"] = robot
    if sensors is not None or sensing:
        before_that = {} if sensors is not None else task.get("sensing", {})
        task["sensing"] = check_sensing(sensors or "perfect", {**before_that, **(sensing or {})})
    for name, changes in (("ground", ground), ("motion", motion), ("build", build)):
        if changes:
            task[name] = {**task.get(name, {}), **changes}
    return task


def in_task(options: dict[str, Any], task: dict[str, Any], *, adapts: bool = False) -> dict[str, Any]:
    """Options with which a robot senses as in ``options``, and does what ``task`` says.

    Args:
        options: of ``BallbotVectorEnv``.
        task: of ``task_of``.
        adapts: who is judged reads the robot and the command off the world, and refuses itself what it cannot drive.

    Raises:
        SettingsError: the command is told by other numbers than the robot observes, or the robot has other wheels.
    """
    changed = {name: value for name, value in options.items() if name not in TASK} | task
    was, now = (_world(each) for each in (options, changed))
    if (had := was.robot_config.wheels) != (has := now.robot_config.wheels) and not adapts:
        raise SettingsError(
            f"robot {now.robot!r} has {has} wheels, and what is judged drives one with {had}, {was.robot!r}: "
            "judge each on the robot that it was trained for"
        )
    if was.observation == "encoded" and was.num_cameras != now.num_cameras:
        raise SettingsError(
            f"robot {now.robot!r} has {now.num_cameras} cameras, and what is judged sees by {was.num_cameras}: "
            "judge it on the robot that it was trained for"
        )
    before, after = was.layout().names, now.layout().names
    if before != after and not adapts:
        raise SettingsError(
            f"command {changed.get('command', 'goal')!r} is observed as {_without(after, before)}, and what is judged "
            f"observes {_without(before, after)}, of command {options.get('command', 'goal')!r}: leave --command out, "
            "or judge what was trained for it"
        )
    return changed


def _world(options: dict[str, Any]) -> WorldConfig:
    """The world of these options."""
    return WorldConfig.of(**{name: value for name, value in options.items() if name != "encoder"})


def _without(names: tuple[str, ...], others: tuple[str, ...]) -> str:
    return " and ".join(repr(name) for name in names if name not in others) or "nothing"
