"""What does not outlive a change of the kind of ground or command, or of the robot."""

from __future__ import annotations

from ballbot.envs.terrain import parse_terrain


def outdated(
    terrain: str,
    command: str,
    robot: str = "reference",
    *,
    to_terrain: str | None = None,
    to_command: str | None = None,
    to_robot: str | None = None,
) -> set[str]:
    """Options of a ``WorldConfig`` that belonged to the old kind of ground, command or robot, and not to the new one.

    A terrain of another difficulty is of the same kind.  A robot that is named has its own numbers.

    Args:
        terrain: before.
        command: before.
        robot: before.
        to_terrain: afterwards; None: the same.
        to_command: likewise.
        to_robot: likewise.

    Raises:
        SettingsError: there is no such terrain.
    """
    names: set[str] = set()
    if to_terrain is not None and parse_terrain(to_terrain).kind != parse_terrain(terrain).kind:
        names |= {"ground", "terrain_cell"}
    if to_command not in (None, command):
        names |= {"motion", "rewards", "training_rewards", "final_rewards"}
    if to_robot is not None:  # a robot by name is that one, whatever numbers the one before had
        names |= {"build", "vary"} if to_robot == robot else {"build", "vary", "rig"}
    return names
