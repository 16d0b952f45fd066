"""Ballbot: reinforcement learning for a ball-balancing robot, on stock MuJoCo and PyTorch.

Importing this package registers ``Ballbot-v0`` with Gymnasium, and ``BallbotRoad-v0`` and so on for each of
``ballbot.tasks``::

    import ballbot, gymnasium as gym
    env = gym.make("Ballbot-v0", terrain="flat")
    envs = gym.make_vec("Ballbot-v0", num_envs=64, terrain="stairs:0.4", command="velocity")

``gym.make("Ballbot-v0", max_episode_steps=N)`` is Gymnasium's own option: it wraps the environment in a ``TimeLimit``
that truncates after N steps.  The environment's limit stays 4000, so ``info["success"]`` stays False there.
``gym.make_vec`` and ``BallbotEnv(max_episode_steps=N)`` set the environment's limit itself, and success with it.

``ballbot.envs`` is the world, ``ballbot.ppo`` the learning; neither is imported here, so that each can be used
without the other.
"""

import gymnasium as gym

from ballbot.tasks import TASKS

__version__ = "0.2.0"

if "Ballbot-v0" not in gym.registry:  # importlib.reload must not warn
    # No max_episode_steps: the environment counts its own time limit, in gym.make and gym.make_vec alike.
    gym.register(
        id="Ballbot-v0",
        entry_point="ballbot.envs:BallbotEnv",
        vector_entry_point="ballbot.envs:BallbotVectorEnv",
    )
    for _name, _options in TASKS.items():
        gym.register(
            id=f"Ballbot{_name.title()}-v0",
            entry_point="ballbot.envs:BallbotEnv",
            vector_entry_point="ballbot.envs:BallbotVectorEnv",
            kwargs=_options,
        )
