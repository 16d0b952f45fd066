# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Cameras around the robot: where they are, what they see, and that three of them share the robot's symmetry."""

from __future__ import annotations

import json
from contextlib import closing

import mujoco
import numpy as np
import pytest
import torch
from inprocess import call

from ballbot import presets
from ballbot.controllers import robot_symmetry
from ballbot.encoders import encoder_file, find_encoder, load_encoder
from ballbot.encoders.frozen import DEFAULT_ENCODER, OUTWARD_ENCODER
from ballbot.envs import BallbotVectorEnv, WorldConfig
from ballbot.envs.model import build_model, physics_digest, view_digest
from ballbot.envs.rig import CameraRig, rig_of
from ballbot.errors import SettingsError
from ballbot.options import from_plain, plain
from ballbot.runs import read_config


def poses(model: mujoco.MjModel, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(place from the base, axes as columns: right, up, back) of each camera of the upright robot."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    origin = data.body("base").xpos
    return [(data.camera(f"cam_{i}").xpos - origin, data.camera(f"cam_{i}").xmat.reshape(3, 3)) for i in range(number)]


@pytest.mark.parametrize("tilt", [-30.0, 0.0, 40.0])
def test_cameras_are_where_the_options_say(tilt):
    rig = CameraRig(number=4, start_deg=30, reach=0.2, height=-0.05, tilt_deg=tilt, fov_deg=70)
    model = build_model(rig=rig)
    found = poses(model, 4)
    assert model.ncam == 5 and model.cam_fovy[1:].tolist() == [70] * 4  # and the one that follows
    for i, (place, axes) in enumerate(found):
        turn = np.radians(30 + 90 * i)
        outward = np.array([np.cos(turn), np.sin(turn), 0])
        np.testing.assert_allclose(place, 0.2 * outward + [0, 0, -0.05], atol=1e-9)
        look, up = -axes[:, 2], axes[:, 1]
        t = np.radians(tilt)
        np.testing.assert_allclose(look, np.sin(t) * outward - [0, 0, np.cos(t)], atol=1e-9)
        assert up @ outward > 0 and np.linalg.det(axes) == pytest.approx(1)


def test_an_arm_weighs_what_the_references_do():
    old, new = build_model(), build_model(rig=CameraRig(reach=0.17320508))
    assert new.body("camera_arm_2").mass[0] == pytest.approx(old.body("camera_arm_0").mass[0], rel=1e-6)
    assert physics_digest(old) != physics_digest(new) and view_digest(old) != view_digest(new)
    assert physics_digest(build_model(rig=None)) == physics_digest(old)


def test_images_of_a_turned_robot_are_those_of_the_next_camera():
    rig = {"number": 3}
    envs = BallbotVectorEnv(2, observation="depth", terrain="road", num_terrains=1, num_threads=1, rig=rig)
    assert envs.cameras is not None
    envs.reset(seed=0)
    yaw = 0.4
    for i, turn in enumerate((0.0, -2 * np.pi / 3)):
        envs.simulations.place(i, 0, yaw=yaw + turn, tilt=0.0, tilt_axis=0.0)
    envs.cameras.take(np.arange(2), envs.simulations.robot_state())
    images = torch.from_numpy(envs.cameras.latest)
    assert images[0].std(dim=0).max() > 0.01  # they see different ground
    # the robot is not quite its own image: arms and wheels are placed to a few millionths
    np.testing.assert_allclose(images[1], images[0].roll(1, dims=0), atol=2e-3)

    encoder = load_encoder()
    layout = WorldConfig(observation="encoded", rig=rig).layout((encoder.architecture.embedding_size,) * 3)
    symmetry = robot_symmetry(layout)
    assert symmetry.seen.all(dim=1).tolist() == [True] * 3 and (symmetry.observations != 0).any(-1).all()
    rows = torch.zeros(2, layout.size)
    for row, seen in zip(rows, images, strict=True):
        row[layout.sensed : -1] = encoder(seen[:, None]).flatten()
    turned = symmetry.observations[1] @ rows[0]
    np.testing.assert_allclose(turned, rows[1], atol=0.05)
    assert (turned - rows[0]).abs().max() > 0.2


def test_images_have_no_counterpart_in_a_mirror_or_of_four_cameras():
    one = (20,)
    three = WorldConfig(observation="encoded", rig={"number": 3}).layout(one * 3)
    seen = (robot_symmetry(three, mirror=True).observations != 0).any(-1)[:, three.sensed : -1]
    assert seen.all(1).tolist() == [True] * 3 + [False] * 3
    four = WorldConfig(observation="encoded", rig={"number": 4}).layout(one * 4)
    seen = (robot_symmetry(four).observations != 0).any(-1)[:, four.sensed :]  # the images' age too
    assert seen.any(1).tolist() == [True, False, False]
    six = WorldConfig(observation="encoded", rig={"number": 6}).layout(one * 6)
    assert (robot_symmetry(six).observations != 0).any(-1).all()


def test_a_rig_is_part_of_the_task_and_comes_back():
    world = WorldConfig(observation="encoded", rig={"tilt_deg": 20})
    assert world.rig == {
        "number": 3, "start_deg": 90.0, "reach": 0.17, "height": -0.06, "tilt_deg": 20.0, "fov_deg": 90.0,
    }  # fmt: skip
    assert world.num_cameras == 3 and WorldConfig().num_cameras == 2
    assert WorldConfig.from_metadata(world.metadata()) == world
    assert from_plain(plain(world)) == world
    assert not any(key.startswith("rig") for key in WorldConfig().metadata())
    assert presets.plain(rig={"number": 3}).layout().images == (20,) * 3


@pytest.mark.parametrize(
    ("rig", "message"),
    [
        ({"nummer": 3}, "rig has no option 'nummer': did you mean 'number'"),
        ({"number": 0}, "rig: number must be a whole number from 1 to 12, got 0"),
        ({"number": 2.5}, "rig: number must be a whole number, got 2.5"),
        ({"fov_deg": 180}, "rig: fov_deg must be a number from 10 to 150, got 180"),
        ({"tilt_deg": float("nan")}, "rig: tilt_deg must be a finite number"),
        ([3], r"rig=\[3\] must be a mapping of options by name"),
    ],
)
def test_impossible_rigs_are_refused(rig, message):
    with pytest.raises(SettingsError, match=message):
        WorldConfig(rig=rig)


@pytest.mark.parametrize(
    ("rig", "what"),
    [
        ({"reach": 0.08}, "the ballast"),
        ({"reach": 0.1, "height": 0.2}, "the tower"),
        ({"reach": 0.06, "height": -0.2}, "the ball"),
        ({"height": -0.21}, "the ground"),
    ],
)
def test_cameras_that_would_see_nothing_are_refused(rig, what):
    with pytest.raises(SettingsError, match=f"camera 0 of the rig is within {what}, at .* another rig reach or height"):
        BallbotVectorEnv(1, rig=rig, terrain="flat")


@pytest.mark.parametrize("height", [-0.12, -0.15])
def test_arms_that_touch_the_ball_are_refused(height):
    with pytest.raises(SettingsError, match=r"arm 0 of the rig touches the ball: choose another rig reach or height"):
        BallbotVectorEnv(1, rig={"height": height}, terrain="flat")


def test_a_layout_is_of_the_rigs_cameras():
    with pytest.raises(SettingsError, match="images are of 2 cameras, and the rig has 3"):
        WorldConfig(rig={"number": 3}).layout((20, 20))


def test_no_rig_are_the_references_two():
    assert rig_of({}) is None
    envs = BallbotVectorEnv(1, observation="depth", num_terrains=1, num_threads=1)
    assert envs.cameras is not None and envs.cameras.num == 2


def test_a_state_of_another_rig_is_not_accepted():
    first, second = (
        BallbotVectorEnv(1, observation="depth", num_terrains=1, num_threads=1, rig={"tilt_deg": tilt})
        for tilt in (20.0, 25.0)
    )
    first.reset(seed=0), second.reset(seed=0)
    with pytest.raises(ValueError, match=r"rig|view"):
        second.set_state(first.get_state())


def test_cameras_look_through_the_encoder_that_has_learned_what_they_see():
    assert encoder_file({}) == DEFAULT_ENCODER
    assert encoder_file({"number": 4, "start_deg": 10}) == OUTWARD_ENCODER  # each sees no other thing than of three
    assert encoder_file({"tilt_deg": 29}) == encoder_file({"fov_deg": 80}) == DEFAULT_ENCODER
    outward = load_encoder(OUTWARD_ENCODER)
    assert rig_of(outward.card["data"]["provenance"]["rig"]) == CameraRig()
    assert find_encoder(outward.content_hash).content_hash == outward.content_hash
    wide = presets.plain(observation="encoded", rig={"number": 6}, num_terrains=1)
    assert wide.metadata()["encoder"] == outward.content_hash
    with closing(wide.evaluation_envs(1, num_threads=1)) as envs:
        assert envs.reset(seed=0)[0].shape == (1, wide.layout().size)
        assert envs.cameras is not None and envs.cameras.state_options()["encoder"] == outward.content_hash


def test_a_command_line_of_a_rig(tmp_path):
    said: list[str] = []
    few = "--total-timesteps 80 --num-envs 2 --num-steps 4 --minibatch-size 4 --num-terrains 2 --num-threads 1"
    few += " --eval-episodes 2 --max-episode-steps 40"
    for line in (
        f"ppo_ballbot.py --preset plain --rig.number 3 --rig.tilt-deg 35 {few} --run-name wide",
        "evaluate.py runs/wide/last.pt --episodes 2 --horizon 20",
        f"ppo_ballbot.py --config runs/wide --rig.number None {few} --run-name two",
        f"ppo_ballbot.py --config runs/wide --init-from runs/wide --rig.tilt-deg 20 {few} --run-name other",
        f"ppo_ballbot.py --config runs/wide --rig.tilt-deg 30 {few} --run-name kept",
        f"ppo_ballbot.py --config runs/wide --rig.tilt-deg 30 --encoder None {few} --run-name own",
        "ppo_ballbot.py --resume runs/wide --total-timesteps 160",
    ):
        script, *options = line.split()
        if "--resume" in options:  # the copy is gone, and the same comes along
            next((tmp_path / "runs/wide").glob("encoder_*.pt")).unlink()
        done = call(script, *options, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert (
        "note: the encoder has learned what the two cameras of the reference see, and looks through number 3" in said[0]
    )
    assert json.loads((tmp_path / "runs/wide/config.json").read_text())["env"]["rig"]["tilt_deg"] == 35
    assert json.loads((tmp_path / "runs/two/config.json").read_text())["env"]["rig"] == {}
    assert "image_0, image_1, image_2, image_age new, start at 0" in said[3]  # other places, other images
    remedy = "--encoder None takes the one that comes along for these"
    assert [remedy in out for out in said] == [False, False, False, False, True, False, False]
    encoders = [read_config(tmp_path / "runs" / name)["env_metadata"]["encoder"] for name in ("kept", "own")]
    assert encoders == [load_encoder(path).content_hash for path in (DEFAULT_ENCODER, OUTWARD_ENCODER)]
