"""The ballbot's world: robot, ground, task and observations."""

import os

try:
    import mujoco
except ImportError:
    raise
except Exception as error:  # whatever the OpenGL library that MUJOCO_GL names happens to raise
    raise ImportError(
        f"MuJoCo cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r} "
        f"({type(error).__name__}: {error}): unset MUJOCO_GL, which training does not need, or set it to a kind of "
        "OpenGL that works here (experiments/check_setup.py tells which)"
    ) from error
try:
    import mujoco.batch
except ImportError as error:
    raise ImportError(
        f"ballbot steps its robots with mujoco.batch, which MuJoCo has since 3.17; this is {mujoco.__version__}: "
        'pip install --upgrade "mujoco>=3.17"'
    ) from error

from ballbot.envs.commands import COMMANDS
from ballbot.envs.config import WorldConfig
from ballbot.envs.observations import FIELDS, Field
from ballbot.envs.rewards import ENDINGS, REWARDS
from ballbot.envs.robot import RobotConfig
from ballbot.envs.robots import ROBOTS
from ballbot.envs.single_env import BallbotEnv
from ballbot.envs.step import RobotState, Step
from ballbot.envs.terrain import TERRAINS, Grid, Ground
from ballbot.envs.vector_env import BallbotVectorEnv

__all__ = [
    "COMMANDS",
    "ENDINGS",
    "FIELDS",
    "REWARDS",
    "ROBOTS",
    "TERRAINS",
    "BallbotEnv",
    "BallbotVectorEnv",
    "Field",
    "Grid",
    "Ground",
    "RobotConfig",
    "RobotState",
    "Step",
    "WorldConfig",
]
