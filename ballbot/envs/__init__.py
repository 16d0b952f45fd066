"""The ballbot's world: robot, ground, task and observations."""

import mujoco

try:
    import mujoco.batch
except ImportError as error:
    raise ImportError(
        f"ballbot steps its robots with mujoco.batch, which MuJoCo has since 3.17; this is {mujoco.__version__}: "
        'pip install --upgrade "mujoco>=3.17"'
    ) from error

from ballbot.envs.single_env import BallbotEnv
from ballbot.envs.vector_env import BallbotVectorEnv

__all__ = ["BallbotEnv", "BallbotVectorEnv"]
