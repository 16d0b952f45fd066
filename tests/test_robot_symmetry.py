"""The sides of robot_symmetry are sides of the simulated robot, not only of its numbers."""

# mypy: allow-untyped-defs, allow-untyped-calls
import numpy as np
import pytest

from ballbot.controllers import LinearController, feedback_prior, robot_symmetry
from ballbot.envs import BallbotVectorEnv
from ballbot.envs.observations import layout_of

LAYOUT = layout_of("body", ("goal",), ())
YAW, TILT_AXIS, VELOCITY = 0.3, 0.7, (0.2, 0.1)


def placed(plane, goal):
    """How the robot stands that sees everything as one at YAW, TILT_AXIS, VELOCITY does, turned or mirrored by `plane`.

    A mirror is set up along the way to go, so that the goal stays where it is.
    """
    angle = np.arctan2(plane[1, 0], plane[0, 0])
    if np.linalg.det(plane) > 0:
        return {"yaw": YAW - angle, "tilt_axis": TILT_AXIS, "velocity": VELOCITY}
    mirror = 2 * np.outer(goal, goal) - np.eye(2)
    axis = -mirror @ (np.cos(TILT_AXIS), np.sin(TILT_AXIS))
    yaw = 2 * np.arctan2(goal[1], goal[0]) - angle - YAW
    return {"yaw": yaw, "tilt_axis": np.arctan2(axis[1], axis[0]), "velocity": tuple(mirror @ VELOCITY)}


@pytest.mark.parametrize("side", range(1, 6))
def test_a_turned_or_mirrored_robot_with_its_actions_does_the_same(side):
    symmetry = robot_symmetry(LAYOUT, mirror=True)
    assert len(symmetry) == 6
    seen, wheels = (x[side].numpy().astype(float) for x in (symmetry.observations, symmetry.actions))
    plane = seen[LAYOUT["goal"], LAYOUT["goal"]]
    rng = np.random.default_rng(0)
    apart = {}
    # wrong: the other third of a turn; a mirror that takes wheels for what they are not, or turns them the same way
    wrong = {"turn": wheels.T} if side < 3 else {"sign": -wheels, "wheel": wheels @ symmetry.actions[1].numpy()}
    for name, exchange in ({"right": wheels} | wrong).items():
        envs = BallbotVectorEnv(2, terrain="flat", num_threads=1)
        envs.reset(seed=0)
        envs.simulations.place(0, 0, yaw=YAW, tilt=0.05, tilt_axis=TILT_AXIS, velocity=VELOCITY)
        goal = envs.world.told.direction[:, 0]
        envs.simulations.place(1, 0, tilt=0.05, **placed(plane, goal))
        controller, differences = LinearController(envs.dt), []
        obs = np.zeros((2, 17), np.float32)
        for step in range(250):
            action = controller(obs[:1], np.array([step == 0]))[0] + rng.normal(0, 0.2, 3)
            obs, _, terminated, _, _ = envs.step(np.stack([action, exchange @ action]).clip(-1, 1).astype(np.float32))
            assert not terminated.any() or name != "right"
            differences.append(np.abs(seen @ obs[0] - obs[1]).max())
        envs.close()
        apart[name] = max(differences[:100])
    # where the wheels slip, it matters that they sit askew
    assert apart.pop("right") < (0.03 if side < 3 else 0.15) < 0.3 < min(apart.values()), apart


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
