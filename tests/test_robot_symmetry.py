"""The turn of robot_symmetry is one of the simulated robot, not only of its numbers."""

# mypy: allow-untyped-defs, allow-untyped-calls
import numpy as np

from ballbot.controllers import LinearController, feedback_prior, robot_symmetry
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.observations import layout_of


def test_a_turned_robot_with_turned_actions_does_the_same():
    symmetry = robot_symmetry(layout_of("body", ("goal",), ()))
    turn, swap = (x.numpy().astype(float) for x in (symmetry.observations[1], symmetry.actions[1]))
    rng = np.random.default_rng(0)
    apart = {}
    for name, exchange in (("right", swap), ("wrong", swap.T)):
        envs = BallbotVectorEnv(2, terrain="flat", num_threads=1)
        envs.reset(seed=0)
        for i, yaw in enumerate((0.3, 0.3 - 2 * np.pi / 3)):
            envs.simulations.place(i, 0, yaw=yaw, tilt=0.05, tilt_axis=0.7, velocity=(0.2, 0.1))
        controller, differences = LinearController(envs.dt), []
        obs = np.zeros((2, 17), np.float32)
        for step in range(250):
            action = controller(obs[:1], np.array([step == 0]))[0] + rng.normal(0, 0.2, 3)
            obs, _, terminated, _, _ = envs.step(np.stack([action, exchange @ action]).clip(-1, 1).astype(np.float32))
            assert not terminated.any() or name == "wrong"
            differences.append(np.abs(turn @ obs[0] - obs[1]).max())
        envs.close()
        apart[name] = max(differences[:100])
    assert apart["right"] < 0.03 < 0.3 < apart["wrong"], apart


def test_the_linear_controller_has_it():
    layout = layout_of("body", ("goal",), (), images=(2,))
    assert layout.size == 20
    symmetry, prior = robot_symmetry(layout), feedback_prior(layout, 0.3)
    obs = symmetry.observations.new_tensor(
        np.random.default_rng(0).normal(0, 0.01, (50, 20))
    )  # its lean is bounded along x and y
    assert symmetry.seen.tolist() == [[1.0] * 20, [1.0] * 17 + [0.0] * 3, [1.0] * 17 + [0.0] * 3]
    for side, actions in zip(symmetry.observations, symmetry.actions, strict=True):
        np.testing.assert_allclose(prior(obs @ side.T), prior(obs) @ actions.T, atol=1e-5)
