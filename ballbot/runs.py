"""What a training run's config.json says: settings written by ``record`` and read by ``load_settings``.

Files of older versions are read too, as what they meant then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ballbot import plugins, robot_files
from ballbot.encoders import FrozenEncoder
from ballbot.encoders.frozen import kept_encoder
from ballbot.envs import WorldConfig
from ballbot.envs.observations import ESTIMATED, Layout, whole_row
from ballbot.envs.robots import robot_of
from ballbot.errors import SettingsError
from ballbot.evaluation.trained import trained_encoder, trained_layout, trained_world
from ballbot.options import from_plain, plain
from ballbot.ppo import InitFrom, Policy, PPOConfig, load_policy
from ballbot.ppo.checkpoint import read_small_bytes, run_dir_of
from ballbot.presets import OWN, Settings

PROVENANCE = {
    "env_metadata",
    "init_from",
    "mujoco",
    "world_size",
    "versions",
    "git_commit",
    "plugins",
    "teacher_sha256",
}
"""What the file holds besides settings: where the numbers came from."""
MAX_CONFIG_BYTES = 2**24
"""Of a config.json; a run's has three thousand."""


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run, and what else of its command line is recorded."""

    settings: Settings
    """What decides the run."""
    encoder: str | None = None
    """File of the cameras' encoder: the copy that the run keeps, if there is one."""
    num_threads: int = 0
    """Threads of the simulations."""


def record(
    settings: Settings, encoder: str | None = None, num_threads: int = 0, teacher_sha256: str | None = None
) -> dict[str, Any]:
    """What a run's config.json says besides the settings of PPO, for ``ballbot.ppo.train``.

    Args:
        settings: of the run.
        encoder: file that was asked for; None for ballbot's own.
        num_threads: of the simulations, as asked for.
        teacher_sha256: of the copy of a teacher that the run keeps; None without.
    """
    return {
        "env": plain(settings.world) | {"encoder": encoder, "num_threads": num_threads},
        **{name: getattr(settings, name) for name in OWN},
        "mujoco": version("mujoco"),
        **({"plugins": plugins.loaded()} if plugins.loaded() else {}),
        **({} if teacher_sha256 is None else {"teacher_sha256": teacher_sha256}),
    }


def config_file(path: Path) -> Path:
    """The config.json of a run's folder, or the file itself."""
    return path / "config.json" if path.is_dir() else path


def read_config(path: Path) -> dict[str, Any]:
    """What a run's config.json holds.

    Raises:
        SettingsError: the file is missing or no JSON object.
    """
    path = config_file(path)
    try:
        content = json.loads(read_small_bytes(path, MAX_CONFIG_BYTES))  # in the UTF of its first bytes
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist: settings are read from the config.json of a run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read as JSON ({error}): give the config.json of a run") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds {type(content).__name__}, not a JSON object: give the config.json of a run")
    return content


def load_settings(path: Path) -> RunSettings:
    """The settings in a run's config.json; ``path`` is that file, or the run's folder.

    Raises:
        SettingsError: the file is missing, no JSON, has a key this version does not know or a value of the wrong kind.
        PluginError: a plugin that the run was made with is not loaded.
    """
    path = config_file(path)
    content = read_config(path)
    plugins.require(content.get("plugins", {}), str(path))
    unknown = sorted(set(content) - PROVENANCE - {"ppo", "env", "torch_threads", *OWN})
    if unknown:
        raise SettingsError(f'{path} has the unknown key {unknown[0]!r}: settings belong under "ppo" or "env"')
    if "versions" in content and "env" not in content:  # written by a run, not by hand
        raise SettingsError(
            f"{path} is of a run on other environments than Ballbot-v0: give the config.json of one on it"
        )
    sections = {name: content.get(name, {}) for name in ("ppo", "env")}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise SettingsError(f'{path}: "{name}" must be a JSON object')
    known = {f.name for f in fields(PPOConfig)}
    if unknown := sorted(set(sections["ppo"]) - known):
        raise SettingsError(f'{path}: "ppo" has the unknown key {unknown[0]!r}; known are {", ".join(sorted(known))}')
    env = dict(sections["env"])
    others = {name: env.pop(name) for name in ("encoder", "num_threads") if name in env}
    metadata = _metadata_in(content)
    if metadata.get("observation") == "proprioception" and "observation" not in env:
        env = {"cameras": False, **env}  # from before there were cameras
    # absent from the files of older versions, in which there was nothing of the kind
    own: dict[str, Any] = {"camera_scale": 1.0, "velocity_scale": 1.0}
    own |= {"symmetry": False, "value_sees_action": True}
    own |= {name: content[name] for name in OWN if name in content}
    ppo = dict(sections["ppo"])
    if "torch_threads" in content:  # where older versions wrote it
        ppo["torch_threads"] = content["torch_threads"]
    old = metadata.get("encoder")
    if isinstance(old, str) and (kept := kept_encoder(path.parent, old)).is_file():
        others["encoder"] = str(kept)
    try:
        env = robot_files.as_recorded(env, str(path.parent), path.parent, metadata.get("robot_digest"))
        settings = Settings(ppo=PPOConfig(**ppo), world=from_plain(env), **own)
        return RunSettings(settings, **others)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error


def recorded_metadata(path: Path) -> dict[str, Any]:
    """What a run's config.json says of its policy's inputs; empty if it cannot be read."""
    try:
        return _metadata_in(read_config(path))
    except SettingsError:
        return {}


def _metadata_in(content: dict[str, Any]) -> dict[str, Any]:
    metadata = content.get("env_metadata")
    return metadata if isinstance(metadata, dict) else {}


def recorded_encoder(path: Path) -> str | None:
    """Content hash of the encoder in a run's config.json; None: without cameras, or not readable."""
    encoder = recorded_metadata(path).get("encoder")
    return encoder if isinstance(encoder, str) else None


def recorded_teacher(path: Path) -> str | None:
    """SHA-256 of the teacher's copy by a run's config.json; None: there is no copy, or it is not known."""
    try:
        digest = read_config(path).get("teacher_sha256")
    except SettingsError:
        return None
    return digest if isinstance(digest, str) else None


def resumed_metadata(settings: Settings, encoder: FrozenEncoder | None, run_dir: Path) -> dict[str, Any]:
    """What a policy's inputs mean, as the run that goes on recorded it: a checkpoint refuses others.

    Runs of older versions recorded some options at their defaults too, or fewer, and go on so.  Plugins that were
    not there then change nothing.

    Args:
        settings: of the run.
        encoder: of its cameras.
        run_dir: its folder.
    """
    found, recorded = settings.metadata(encoder), recorded_metadata(run_dir / "config.json")
    if recorded:
        found.pop("plugins", None)  # those of then are loaded: load_settings has checked it
        found |= {name: recorded[name] for name in ("plugins",) if name in recorded}
        if "height_maps" not in recorded:
            found.pop("height_maps", None)
        if found.get("robot_digest") is not None and found["robot_digest"] == recorded.get("robot_digest"):
            found["robot"] = recorded["robot"]  # of which the run goes on with the copy
    defaults = {f.name: f.default for f in fields(WorldConfig)}
    found |= {k: v for k, v in recorded.items() if k not in found and v == defaults.get(k)}
    return {k: v for k, v in found.items() if not recorded or k in recorded or v != defaults.get(k)}


def init_from(path: str | Path, settings: Settings, encoder: FrozenEncoder | None) -> InitFrom:
    """What a new run takes over of a policy of the robot: the fields of the observation that both have.

    The policy takes over those that the old policy saw, the value function those that either saw.  Which ones only the
    old value function saw, its run folder tells; of a checkpoint that lies elsewhere, they are dropped.

    Args:
        path: checkpoint or run folder.
        settings: of the new run.
        encoder: of its cameras.

    Raises:
        SettingsError: the policy is not one of Ballbot-v0's, observes in another frame, or asks motors for others.
        CheckpointError: it cannot be read.
        PluginError, EncoderError: a plugin or an encoder that it was trained with is missing.
    """
    policy = load_policy(path)
    world = trained_world(policy)
    if world.frame != settings.world.frame:
        raise SettingsError(
            f"{path} observes in --frame {world.frame}, this run in --frame {settings.world.frame}: a policy knows the "
            "fields of its own frame alone"
        )
    if world.action != settings.world.action:
        raise SettingsError(
            f"{path} was trained with --action {world.action}, this run is with --action {settings.world.action}: what "
            "it has learned to do would mean something else"
        )
    eyes = trained_encoder(policy)
    then, now = trained_layout(policy, world, eyes), settings.layout(encoder)
    more, beside = _seen_by_values_alone(policy), settings.world.privileged_layout()
    estimated = Layout(tuple(policy.metadata.get("estimates", ())), wheels=world.robot_config.wheels)
    theirs, ours = ([] if layout is None else list(layout.slices) for layout in (more, beside))
    old, new = whole_row(then, more, estimated), whole_row(now, beside, settings.estimated_layout)
    same_eyes = eyes is not None and encoder is not None and eyes.content_hash == encoder.content_hash
    same_eyes &= world.rig == settings.world.rig
    like: dict[str, str] = {}  # new -> old
    for name, at in new.items():
        truth = name.removeprefix(ESTIMATED)
        others = [truth] if name != truth and truth in then.slices else []  # what was told is estimated now
        others += [f"{ESTIMATED}{name}"] if name in now.slices else []  # or the other way round
        for source in (name, *others):
            if len(old.get(source, ())) == len(at) and source not in like.values():
                if same_eyes or not name.startswith("image_"):
                    like[name] = source
                break
    columns = [column for name, at in new.items() for column in (old[like[name]] if name in like else [None] * len(at))]
    seen, saw = ([name for name in row if name not in alone] for row, alone in ((new, ours), (old, theirs)))
    kept = [name for name in seen if like.get(name) in saw]
    told = _told(kept, seen, [name for name in saw if name not in [like[name] for name in kept]])
    values = _told([name for name in ours if name in like], ours, [x for x in theirs if x not in like.values()])
    told += [f"of the value function alone {line}" for line in values]
    if more is None and (unknown := policy.agent.value_size - policy.agent.obs_size):
        told.append(f"{unknown} numbers of the value function alone dropped, as no config.json beside it tells them")
    return InitFrom(path, columns, "\n".join(told))


def _seen_by_values_alone(policy: Policy) -> Layout | None:
    """Which numbers the value function alone saw in training, by its run's config.json; None: none, or not known."""
    try:
        env = read_config(run_dir_of(policy.path or Path()) / "config.json").get("env")
        if not isinstance(env, dict):
            return None
        wheels = robot_of(env.get("robot", "reference"), env.get("build", {})).wheels
        layout = Layout(tuple(env["privileged_fields"]), wheels=wheels)
    except (SettingsError, KeyError, TypeError):
        return None
    size = policy.agent.value_size - policy.agent.obs_size
    return layout if size and layout.size == size else None


def _told(kept: list[str], now: Iterable[str], then: Iterable[str]) -> list[str]:
    fresh, gone = ([name for name in names if name not in kept] for names in (now, then))
    told = [f"{', '.join(kept)} taken over"] if kept else []
    told += [f"{', '.join(fresh)} new, {'start' if len(fresh) > 1 else 'starts'} at 0"] if fresh else []
    told += [f"{', '.join(gone)} dropped"] if gone else []
    return told


def differences(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    """Name -> values then and now of what differs, of everything that decides a run."""
    then, now = ({**plain(x.world), **{name: getattr(x, name) for name in OWN}, **asdict(x.ppo)} for x in (old, new))
    found = {name: (then[name], now[name]) for name in then if then[name] != now[name]}
    if not (old.world.final_rewards or new.world.final_rewards):
        found.pop("final_rewards_between", None)  # nothing changes between them
    return found
