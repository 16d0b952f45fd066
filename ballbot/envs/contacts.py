"""Which contact physics this process runs: MuJoCo's table of colliders is one for all environments."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import gymnasium as gym

import mujoco_patch
from ballbot.errors import SettingsError
from mujoco_patch import ContactFixError

if TYPE_CHECKING:
    from ballbot.envs.vector_env import BallbotVectorEnv

_open_envs: weakref.WeakSet[BallbotVectorEnv] = weakref.WeakSet()


def _others(fix: bool) -> bool:
    """Whether an environment that says otherwise is open."""
    return any(other.contact_fix != fix and not other.closed for other in _open_envs)


def use_contact_physics(env: BallbotVectorEnv) -> None:
    """Install and verify the contact fix, or remove it, as an environment that is being made says.

    Raises:
        SettingsError: an environment that says otherwise is open.
        ContactFixError: the physics cannot be proved right here.
    """
    fix = env.contact_fix
    if _others(fix):
        gc.collect()  # one that nobody holds any more may still wait for that
    if _others(fix):
        raise SettingsError(
            f"contact_fix={fix}, but an environment with contact_fix={not fix} is open in this process, and MuJoCo's "
            "collision table is shared: close that one first"
        )
    if fix:
        mujoco_patch.ensure()
    else:
        mujoco_patch.uninstall()
        gym.logger.warn("contact_fix=False: the wheels' friction acts along arbitrary directions; no policy can learn")


def note_open(env: BallbotVectorEnv) -> None:
    """Note that an environment was made, and is open until it is closed."""
    _open_envs.add(env)


def check_contact_physics(env: BallbotVectorEnv) -> None:
    """Refuse to go on if somebody changed the physics since the environment was made.

    Raises:
        ContactFixError: that is so.
    """
    if mujoco_patch.is_installed() != env.contact_fix:
        raise ContactFixError(
            f"this environment was made with contact_fix={env.contact_fix}, but the contact fix was "
            f"{'undone' if env.contact_fix else 'installed'} since, perhaps by another library: what was "
            "simulated in between is not to be trusted. Find out by whom, and make the environment anew"
        )
