"""What does not outlive a change of the kind of ground or command."""

from __future__ import annotations

from ballbot.envs.terrain import parse_terrain


def outdated(terrain: str, command: str, *, to_terrain: str | None = None, to_command: str | None = None) -> set[str]:
    """Options of a ``WorldConfig`` that belonged to the old kind of ground or command, and say nothing of the new one.

    A terrain of another difficulty is of the same kind.

    Args:
        terrain: before.
        command: before.
        to_terrain: afterwards; None: the same.
        to_command: likewise.

    Raises:
        SettingsError: there is no such terrain.
    """
    names: set[str] = set()
    if to_terrain is not None and parse_terrain(to_terrain).kind != parse_terrain(terrain).kind:
        names |= {"ground", "terrain_cell"}
    if to_command not in (None, command):
        names |= {"motion", "rewards", "training_rewards", "final_rewards"}
    return names
