"""The ballbot's world: robot, ground, task and observations."""

from ballbot.envs.single_env import BallbotEnv
from ballbot.envs.vector_env import BallbotVectorEnv

__all__ = ["BallbotEnv", "BallbotVectorEnv"]
