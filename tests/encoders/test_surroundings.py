# mypy: allow-untyped-defs, allow-untyped-calls
"""Encoders that are asked for the ground around are told the truth, learn it, and go on exactly."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from ballbot.encoders import DatasetError, DepthDataset
from ballbot.encoders.dataset import RECORD
from ballbot.encoders.pretrain import PretrainConfig, pretrain
from ballbot.encoders.probe import _line, _network, probe_around
from ballbot.encoders.surroundings import leans, scans
from ballbot.envs import BallbotVectorEnv
from ballbot.ppo import CheckpointError

WORLD: dict[str, Any] = {
    "terrain": "road",
    "ground": {"width": 0.3, "drop": 0.1},
    "terrain_seed": 5,
    "num_terrains": 12,
}
CARD = {"split": "train", "seed": 5, "count": 12, "kind": "road", "ground": {"width": 0.3, "drop": 0.1}}
QUICK: dict[str, Any] = {
    "epochs": 12,
    "batch_size": 32,
    "channels": (8, 8),
    "embedding_size": 6,
    "lr": 5e-3,
    "validation": 0.25,
}


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """A data set of robots on a road, and what its robots were told of the ground around."""
    envs = BallbotVectorEnv(
        12, observation="depth", extra_fields=("scan",), initial_tilt_deg=15, num_threads=1,
        camera_resolution=(16, 16), camera_interval=30, **WORLD,
    )  # fmt: skip
    data = DepthDataset.create(tmp_path_factory.mktemp("road") / "d", (16, 16), 1.0, {"terrain": CARD})
    sims, told = envs.simulations, []
    base, ball = sims.addresses.base_qpos, sims.addresses.ball_qpos
    for seed in range(8):
        rng = np.random.default_rng(seed)
        obs, _ = envs.reset(seed=seed, options={"terrain_id": np.arange(12)})
        push = rng.normal(0, 0.3, (12, 3)).astype(np.float32)
        for step in range(1, 151):
            obs, *_ = envs.step(push)
            if step % 30:
                continue
            records = np.zeros((12, 2), RECORD)
            records["terrain"], records["camera"] = sims.terrain_ids[:, None], np.arange(2)
            records["base"], records["ball"] = sims.qpos[:, None, base : base + 7], sims.qpos[:, None, ball : ball + 3]
            data.append(obs["depth"].reshape(-1, 16, 16), records.ravel())
            told.append(np.hstack([obs["proprioception"][:, envs.layout["scan"]], -obs["proprioception"][:, :2]]))
    return data, np.concatenate(told)


def test_the_scan_of_a_view_is_what_its_robot_is_told(taken):
    data, told = taken
    found = scans(data, np.arange(0, len(data), 2))
    # the ball lies where the base says to a millimetre: places at an edge may differ
    assert told.min() < -0.05 and (np.abs(found - told[:, :60]) < 2e-3).mean() > 0.98
    np.testing.assert_allclose(leans(data, np.arange(0, len(data), 2)), told[:, 60:], atol=1e-5)


def test_an_encoder_that_is_asked_for_the_ground_around_learns_it_and_resumes_to_the_last_bit(taken, tmp_path):
    data, told = taken
    asked = PretrainConfig(scan_weight=1.0, **QUICK)
    said: list[str] = []
    whole = pretrain(data, asked, tmp_path / "whole.pt", tmp_path / "whole", say=said.append)
    assert "mm of the ground around" in said[-1]
    assert whole.card["validation_scan_mse_m2"] < 0.8 * told[:, :60].var(0).mean()

    class Stop(Exception):
        pass

    def stop(line):
        if line.startswith("epoch   3"):
            raise Stop

    with pytest.raises(Stop):
        pretrain(data, asked, tmp_path / "part.pt", tmp_path / "part", say=stop)
    again = pretrain(data, asked, tmp_path / "part.pt", tmp_path / "part", resume=True, say=said.append)
    assert again.content_hash == whole.content_hash
    alone = pretrain(data, PretrainConfig(**QUICK), tmp_path / "alone.pt", tmp_path / "alone", say=said.append)
    assert "validation_scan_mse_m2" not in alone.card and alone.card["config"]["scan_weight"] == 0
    errors = [scan_error(data, encoder) for encoder in (whole, alone)]
    assert errors[0] < 0.9 * errors[1]
    with pytest.raises(CheckpointError, match=r"config.scan_weight was 1.0, is 0.0"):
        pretrain(data, PretrainConfig(**QUICK), tmp_path / "part.pt", tmp_path / "part", resume=True, say=said.append)


def scan_error(data, encoder):
    """Share of the variance of the ground around that a line does not know from an encoder's numbers."""
    part, other = (at[::2] for at in data.split_by_terrain(0.25, 0))
    seen = [encoder(torch.from_numpy(data.images(np.r_[at, at + 1]))[:, None]).double().numpy() for at in (part, other)]
    x, z = (np.hstack(np.split(values, 2)) for values in seen)
    y = scans(data, other)
    return ((_line(x, scans(data, part).astype(np.float64), z) - y) ** 2).mean() / y.var(0).mean()


def test_what_does_not_tell_its_ground_cannot_be_asked_for_it(taken, tmp_path):
    data, _ = taken
    other = DepthDataset.create(tmp_path / "d", (16, 16), 1.0, {})
    other.append(data.images(np.arange(len(data))), data.records)
    with pytest.raises(DatasetError, match="does not say which terrains it shows"):
        pretrain(other, PretrainConfig(scan_weight=1.0, **QUICK), tmp_path / "e.pt", tmp_path / "log")


def test_probes_tell_the_ground_around_from_what_knows_it_alone(taken):
    data, told = taken
    part, other = data.split_by_terrain(0.25, 0)
    parts = [part[::2], other[::2]]  # first images of views
    rng = np.random.default_rng(0)
    knows = [scans(data, at).astype(np.float64) for at in parts]
    noise = [rng.normal(size=(len(at), 20)) for at in parts]
    tilt = [told[at // 2, 60:].astype(np.float64) for at in parts]
    values = {"tilt": tilt, "embeddings and tilt": knows, "principal components and tilt": noise}
    found = {(probe.inputs, probe.by): probe.height for probe in probe_around(data, parts, values)}
    assert list(found) == [(name, by) for name in values for by in ("line", "network")]
    assert min(found["embeddings and tilt", "line"][1:]) > 0.99
    for by in ("line", "network"):  # which has few views here to learn from
        known, unknown = (found[f"{name} and tilt", by][1:] for name in ("embeddings", "principal components"))
        assert np.mean(known) > np.mean(unknown) + 0.3


def test_a_network_finds_what_a_line_cannot():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 3000, 3))
    bent, to_tell = (0.1 * np.abs(x[:, :2]) for x in (before, after))
    left = [
        ((fit(before, bent, after) - to_tell) ** 2).mean() / to_tell.var() for fit in (_line, partial(_network, seed=0))
    ]
    assert left[0] > 0.95 and left[1] < 0.05
