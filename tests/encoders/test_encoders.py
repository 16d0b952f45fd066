# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Encoders and what they learn from: frozen for good, exact to resume, and honest about damaged files."""

import json
import os
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from ballbot.encoders import (
    Architecture,
    Autoencoder,
    DatasetError,
    DepthDataset,
    EncoderError,
    FrozenEncoder,
    load_encoder,
    save_encoder,
)
from ballbot.encoders.dataset import RECORD
from ballbot.encoders.pretrain import PretrainConfig, pretrain
from ballbot.ppo import CheckpointError, DivergedError

SMALL = Architecture(16, 16, 3, (4, 4))


def trained(architecture=SMALL, seed=0):
    """Networks whose batch normalisation has seen something, and whose decoder draws something."""
    torch.manual_seed(seed)
    networks = Autoencoder(architecture)
    with torch.no_grad():
        for parameter in networks.decoder.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    for _ in range(3):
        networks(torch.rand(32, 1, architecture.height, architecture.width))
    return networks


def gradient_images(rng, count, size=16):
    """Planes of random height and tilt: what a depth camera sees of smooth ground."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    level, tilt = rng.uniform(0.4, 0.6, (count, 1, 1)), rng.uniform(-0.3, 0.3, (2, count, 1, 1))
    return (level + tilt[0] * x + tilt[1] * y).astype(np.float32)


def make_data(folder, count=600, terrains=6, seed=0):
    rng = np.random.default_rng(seed)
    data = DepthDataset.create(folder, (16, 16), 1.0, {"seed": seed})
    records = np.zeros(count, RECORD)
    records["terrain"] = np.arange(count) % terrains
    data.append(gradient_images(rng, count), records)
    return data


# -- frozen -----------------------------------------------------------------------------------------------------------


def test_a_frozen_encoder_computes_what_the_trained_one_does():
    networks = trained()
    images = torch.rand(20, 1, 16, 16)
    expected = networks.eval().encoder(images)
    torch.testing.assert_close(FrozenEncoder(networks)(images), expected)


def test_nothing_changes_a_frozen_encoder():
    encoder = FrozenEncoder(trained())
    images = torch.rand(8, 1, 16, 16)
    before = encoder(images)
    encoder.train()
    assert not encoder.training and not any(module.training for module in encoder.modules())
    encoder(torch.zeros(64, 1, 16, 16))
    assert torch.equal(encoder(images), before)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(images.requires_grad_()).requires_grad
    with pytest.raises(RuntimeError, match="frozen"):
        encoder.requires_grad_(True)


def test_nothing_is_loaded_into_a_frozen_encoder_and_its_decoder_stays_too():
    encoder, other = FrozenEncoder(trained()), FrozenEncoder(trained(seed=1))
    with pytest.raises(RuntimeError, match="frozen"):
        encoder.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="frozen"):
        torch.nn.Sequential(encoder).load_state_dict(torch.nn.Sequential(other).state_dict())
    embeddings = torch.rand(8, 3)
    before = encoder.decode(embeddings)
    encoder.decoder.train()
    assert torch.equal(encoder.decode(embeddings), before)
    networks = trained().eval()
    torch.testing.assert_close(before, networks.decoder(embeddings).clamp(0, 1))


def test_what_was_saved_loads_whatever_types_it_was_made_of(tmp_path):
    lists = Autoencoder(Architecture(16, 16, 3, [4, 4]))  # type: ignore[arg-type]
    for networks, depth in ((trained(), 1), (lists, 1.0), (trained().double(), 0.1)):
        save_encoder(tmp_path / "e.pt", FrozenEncoder(networks, depth))
        encoder = load_encoder(tmp_path / "e.pt")
        encoder(torch.full((1, 1, 16, 16), float(depth)))


def test_an_image_is_encoded_alike_alone_and_in_company():
    encoder = FrozenEncoder(trained(Architecture()))
    images = torch.rand(37, 1, 64, 64)
    together = encoder(images)
    assert together.shape == (37, 20)
    for i in (0, 8, 36):
        assert torch.equal(encoder(images[i : i + 1])[0], together[i])
    assert encoder(images[:0]).shape == (0, 20)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 1, 16, 8), "takes torch.float32"),
        (torch.rand(2, 16, 16), "takes torch.float32"),
        (torch.rand(3, 2, 16, 16), r"pass images.reshape\(-1, 1, 16, 16\)"),
        (torch.rand(2, 1, 16, 16).double(), "takes torch.float32"),
        (torch.rand(2, 1, 16, 16) + 0.5, "takes 0 to 1 m"),
        (torch.rand(2, 1, 16, 16) - 0.5, "takes 0 to 1 m"),
        (torch.full((2, 1, 16, 16), float("nan")), "takes 0 to 1 m"),
    ],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        FrozenEncoder(trained())(images)


def test_a_file_gives_the_same_encoder_back(tmp_path):
    encoder = FrozenEncoder(trained(), card={"data": "somewhere"})
    save_encoder(tmp_path / "e.pt", encoder)
    loaded = load_encoder(tmp_path / "e.pt")
    images = torch.rand(8, 1, 16, 16)
    assert torch.equal(loaded(images), encoder(images))
    assert torch.equal(loaded.decode(loaded(images)), encoder.decode(encoder(images)))
    assert loaded.content_hash == encoder.content_hash and loaded.card == {"data": "somewhere"}
    assert loaded.content_hash != FrozenEncoder(trained(seed=1)).content_hash
    assert loaded.content_hash != FrozenEncoder(trained(), max_depth=2.0).content_hash


def rewritten(path, **changes):
    content = torch.load(path, weights_only=True)
    content.update(changes)
    torch.save(content, path)


def test_bad_files_are_refused_by_name(tmp_path):
    path = tmp_path / "e.pt"
    with pytest.raises(EncoderError, match="does not exist"):
        load_encoder(path)
    encoder = FrozenEncoder(trained())
    save_encoder(path, encoder)
    whole = path.read_bytes()
    place = whole.index(encoder.weights["encoder.0.weight"].numpy().tobytes())
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for damaged in (b"", b"text", whole[: len(whole) // 2], flipped):
        path.write_bytes(damaged)
        with pytest.raises(EncoderError, match="damaged or no encoder"):
            load_encoder(path)
    weights = dict(encoder.weights)
    nan = {**weights, "encoder.0.bias": torch.full_like(weights["encoder.0.bias"], float("nan"))}
    other = {**weights, "encoder.0.bias": weights["encoder.0.bias"] + 1}
    architecture = {"height": 16, "width": 16, "embedding_size": 3, "channels": [4, 4]}
    for changes, message in (
        ({"kind": "policy"}, "holds no encoder"),
        ({"format_version": 99}, "format version 99"),
        ({"weights": nan}, "not finite"),
        ({"weights": other}, "content hash"),
        ({"weights": {}}, "does not hold the networks"),
        ({"architecture": {**architecture, "channels": [8, 4]}}, "does not hold the networks"),
        ({"architecture": {**architecture, "height": 10**9}}, "does not hold the networks"),
        ({"card": "{"}, "does not hold the networks"),
        ({"max_depth": None}, "does not hold the networks"),
        ({"card": "[1]"}, "its card is list"),
        ({"max_depth": 10**400}, "does not hold the networks"),
        ({"max_depth": -1.0}, "max_depth = -1.0 is out of range"),
        ({"max_depth": float("nan")}, "max_depth = nan is out of range"),
        ({"format_version": torch.zeros(3)}, "format version"),
    ):
        path.write_bytes(whole)
        rewritten(path, **changes)
        with pytest.raises(EncoderError, match=message):
            load_encoder(path)


def test_no_code_in_a_file_is_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"kind": "encoder", "weights": Hostile()}, tmp_path / "e.pt")
    with pytest.raises(EncoderError):
        load_encoder(tmp_path / "e.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("sizes", [{"height": 0}, {"width": 10}, {"channels": ()}, {"embedding_size": 2.0}])
def test_impossible_architectures_are_refused(sizes):
    with pytest.raises(ValueError, match="must be"):
        Architecture(**sizes)


# -- data -------------------------------------------------------------------------------------------------------------


def test_images_come_back_to_within_half_a_step(tmp_path):
    data = make_data(tmp_path / "d", 50)
    again = DepthDataset(tmp_path / "d")
    assert len(again) == 50 and again.card["provenance"] == {"seed": 0}
    expected = gradient_images(np.random.default_rng(0), 50)
    np.testing.assert_allclose(again.images(np.arange(50)), expected, atol=0.51 / 65535)
    data.append(expected[:0], np.zeros(0, RECORD))
    assert len(DepthDataset(tmp_path / "d")) == 50
    data.append(expected[:3], np.zeros(3, RECORD))
    assert len(DepthDataset(tmp_path / "d")) == 53


@pytest.mark.parametrize("max_depth", [0.9, 1.0, 2.3])
def test_the_farthest_image_is_no_farther_than_max_depth(tmp_path, max_depth):
    data = DepthDataset.create(tmp_path / "d", (4, 4), max_depth, {})
    farthest = np.full((1, 4, 4), max_depth, np.float32)
    data.append(np.minimum(farthest, np.float32(max_depth)), np.zeros(1, RECORD))
    np.testing.assert_array_equal(data.images(np.array([0])), np.minimum(farthest, np.float32(max_depth)))


def test_two_programs_do_not_write_over_each_other(tmp_path):
    data = make_data(tmp_path / "d", 20)
    other = DepthDataset(tmp_path / "d")
    image = np.full((1, 16, 16), 0.25, np.float32)
    data.append(image, np.ones(1, RECORD))
    with pytest.raises(DatasetError, match="changed by another program"):
        other.append(image, np.ones(1, RECORD))
    assert len(DepthDataset(tmp_path / "d")) == 21


def test_a_data_set_without_images_may_be_made_anew(tmp_path):
    DepthDataset.create(tmp_path / "d", (4, 4), 1.0, {"seed": 0})
    assert DepthDataset.create(tmp_path / "d", (8, 8), 1.0, {"seed": 1}).card["provenance"] == {"seed": 1}


def test_what_a_crash_left_behind_is_ignored_and_overwritten(tmp_path):
    data = make_data(tmp_path / "d", 20)
    for name in ("images.u16", "records.bin"):
        with open(tmp_path / "d" / name, "ab") as file:
            file.write(b"x" * 777)
    assert len(DepthDataset(tmp_path / "d")) == 20
    image = np.full((1, 16, 16), 0.25, np.float32)
    data.append(image, np.ones(1, RECORD))
    again = DepthDataset(tmp_path / "d")
    np.testing.assert_allclose(again.images(np.array([20])), image, atol=1e-5)
    assert again.records["terrain"][-1] == 1


def test_a_full_disk_leaves_what_was_written_readable(tmp_path, monkeypatch):
    data = make_data(tmp_path / "d", 20)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        data.append(np.zeros((5, 16, 16), np.float32), np.zeros(5, RECORD))
    monkeypatch.undo()
    assert len(data) == len(DepthDataset(tmp_path / "d")) == 20
    data.append(np.zeros((5, 16, 16), np.float32), np.zeros(5, RECORD))
    assert len(DepthDataset(tmp_path / "d")) == 25


def test_images_too_large_to_be_learned_from_are_refused_before_they_take_memory(tmp_path):
    data = DepthDataset.create(tmp_path / "d", (256, 256), 1.0, {})
    with pytest.raises(DatasetError, match="256 x 256, whose principal components take gigabytes"):
        pretrain(data, PretrainConfig(), tmp_path / "e.pt", tmp_path / "log")


def test_data_sets_of_the_first_version_go_on_with_checksums(tmp_path):
    data = make_data(tmp_path / "d", 20)
    card = json.loads((tmp_path / "d" / "card.json").read_text())
    old = {name: card[name] for name in ("shape", "max_depth", "num_images", "provenance")} | {"format_version": 1}
    (tmp_path / "d" / "card.json").write_text(json.dumps(old))
    data = DepthDataset(tmp_path / "d")
    data.append(np.zeros((5, 16, 16), np.float32), np.zeros(5, RECORD))
    assert len(DepthDataset(tmp_path / "d")) == 25
    with open(tmp_path / "d" / "images.u16", "r+b") as file:  # of those that were there before, too
        file.write(b"x")
    with pytest.raises(DatasetError, match=r"images\.u16 does not match its checksum"):
        DepthDataset(tmp_path / "d")


def test_nothing_is_written_through_links(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "records.bin").symlink_to(victim)
    with pytest.raises(OSError, match=r"records\.bin"):
        DepthDataset.create(tmp_path / "d", (4, 4), 1.0, {})
    data = make_data(tmp_path / "e", 20)
    (tmp_path / "e" / "records.bin").unlink()
    (tmp_path / "e" / "records.bin").symlink_to(victim)
    with pytest.raises(OSError, match=r"records\.bin"):
        data.append(np.zeros((5, 16, 16), np.float32), np.zeros(5, RECORD))
    assert victim.read_text() == "mine"


def test_no_terrain_is_in_both_parts(tmp_path):
    data = make_data(tmp_path / "d", 200, terrains=10)
    training, validation = data.split_by_terrain(0.2, seed=0)
    terrain = data.records["terrain"]
    assert len(training) + len(validation) == 200
    assert len(set(terrain[validation])) == 2
    assert not set(terrain[training]) & set(terrain[validation])
    with pytest.raises(DatasetError, match="at least two"):
        make_data(tmp_path / "one", 10, terrains=1).split_by_terrain(0.2, seed=0)


def test_bad_data_sets_are_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"no card\.json"):
        DepthDataset(tmp_path / "none")
    data = make_data(tmp_path / "d", 20)
    with pytest.raises(DatasetError, match="already holds"):
        make_data(tmp_path / "d")
    with pytest.raises(ValueError, match="do not fit"):
        data.append(np.zeros((2, 8, 8), np.float32), np.zeros(2, RECORD))
    with pytest.raises(ValueError, match="outside 0 to 1 m"):
        data.append(np.full((2, 16, 16), 1.5, np.float32), np.zeros(2, RECORD))
    os.truncate(tmp_path / "d" / "images.u16", 1000)
    with pytest.raises(DatasetError, match="it was truncated"):
        DepthDataset(tmp_path / "d")
    card = tmp_path / "d" / "card.json"
    content = json.loads(card.read_text())
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "no card of format version"),
        (json.dumps(content | {"format_version": 9}), "no card of format version"),
        (json.dumps(content | {"format_version": 1, "shape": [0, 16]}), "damaged"),
        (json.dumps(content | {"format_version": 1, "num_images": -1}), "damaged"),
        (json.dumps(content | {"format_version": 1, "num_images": 2**63}), "damaged"),
        (json.dumps(content | {"max_depth": 9.0}), "does not match its checksum"),
    ):
        card.write_text(text)
        with pytest.raises(DatasetError, match=message):
            DepthDataset(tmp_path / "d")


# -- training ---------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "epochs": 25,
    "lr": 1e-2,
    "embedding_size": 3,
    "channels": (8, 8),
    "validation": 0.3,
}
QUICK = PretrainConfig(batch_size=32, **SETTINGS)


def test_training_beats_the_mean_image_and_resumes_to_the_last_bit(tmp_path):
    data = make_data(tmp_path / "d")
    said: list[str] = []
    whole = pretrain(data, QUICK, tmp_path / "whole.pt", tmp_path / "whole", say=said.append)
    card = whole.card
    assert card["validation_mse_m2"] < 0.2 * card["baselines_mse_m2"]["mean_image"]
    assert card["images"]["training"] + card["images"]["validation"] == 600
    assert len(said) == 26 and "epoch  25 of 25" in said[-1]
    # three planes' parameters are all there is to know: that many principal components leave only rounding
    assert card["baselines_mse_m2"]["principal_components"] < 1e-9

    class Stop(Exception):
        pass

    def stop_at(words):
        def stop(line):
            if words in line:
                raise Stop

        return stop

    with pytest.raises(Stop):  # before the first epoch
        pretrain(data, QUICK, tmp_path / "part.pt", tmp_path / "part", say=stop_at("to train on"))
    assert not (tmp_path / "part.pt").exists()
    with pytest.raises(Stop):
        pretrain(data, QUICK, tmp_path / "part.pt", tmp_path / "part", resume=True, say=stop_at("epoch  11"))
    again = pretrain(data, QUICK, tmp_path / "part.pt", tmp_path / "part", resume=True, say=said.append)
    assert again.content_hash == whole.content_hash
    with pytest.raises(CheckpointError, match="is gone: put it back"):
        pretrain(data, QUICK, tmp_path / "elsewhere.pt", tmp_path / "part", resume=True, say=said.append)
    save_encoder(tmp_path / "other.pt", FrozenEncoder(trained()))
    with pytest.raises(CheckpointError, match="is not an encoder of"):
        pretrain(data, QUICK, tmp_path / "other.pt", tmp_path / "part", resume=True, say=said.append)
    with pytest.raises(CheckpointError, match="batch_size was 32, is 64"):
        other = PretrainConfig(batch_size=64, **SETTINGS)
        pretrain(data, other, tmp_path / "part.pt", tmp_path / "part", resume=True, say=said.append)
    with pytest.raises(CheckpointError, match="does not exist"):
        pretrain(data, QUICK, tmp_path / "no.pt", tmp_path / "no", resume=True, say=said.append)


def test_a_training_does_not_take_over_another_ones_file(tmp_path):
    data = make_data(tmp_path / "d")

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(data, QUICK, tmp_path / "e.pt", tmp_path / "r", say=stop)
    save_encoder(tmp_path / "precious.pt", FrozenEncoder(trained()))
    with pytest.raises(CheckpointError, match="is not an encoder of"):
        pretrain(data, QUICK, tmp_path / "precious.pt", tmp_path / "r", resume=True, say=print)


def test_a_training_that_stopped_early_says_so_and_goes_on_with_more_patience(tmp_path, monkeypatch):
    data = make_data(tmp_path / "d")
    worse = iter([2.0, 3.0, 4.0, 5.0, 1.0])
    monkeypatch.setattr("ballbot.encoders.pretrain.validate", lambda *_: next(worse))
    config = PretrainConfig(batch_size=64, **(SETTINGS | {"epochs": 5, "patience": 2}))
    said: list[str] = []
    pretrain(data, config, tmp_path / "e.pt", tmp_path / "r", say=said.append)
    assert sum("epoch" in line for line in said) == 3
    pretrain(data, config, tmp_path / "e.pt", tmp_path / "r", resume=True, say=said.append)
    assert "nothing is left to do after epoch 3" in said[-1]
    config = PretrainConfig(batch_size=64, **(SETTINGS | {"epochs": 5, "patience": 9}))
    encoder = pretrain(data, config, tmp_path / "e.pt", tmp_path / "r", resume=True, say=said.append)
    assert encoder.card["epoch"] == 5 and "(best)" in said[-1]


def test_a_training_that_diverges_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("ballbot.encoders.pretrain.validate", lambda *_: float("nan"))
    with pytest.raises(DivergedError, match="lower lr"):
        pretrain(make_data(tmp_path / "d"), QUICK, tmp_path / "e.pt", tmp_path / "r", say=print)


def test_a_data_set_that_grows_keeps_its_parts(tmp_path):
    parts = []
    for count in (30, 600):  # few images show but some of the terrains
        folder = tmp_path / str(count)
        data = DepthDataset.create(folder, (16, 16), 1.0, {"terrain": {"count": 40}})
        records = np.zeros(count, RECORD)
        records["terrain"] = np.random.default_rng(0).integers(40, size=count)
        data.append(np.zeros((count, 16, 16), np.float32), records)
        parts.append([set(records["terrain"][part]) for part in data.split_by_terrain(0.3, 0)])
    (training, validation), (all_training, all_validation) = parts
    assert training <= all_training and validation <= all_validation and len(all_validation) == 12


def test_a_file_that_names_huge_sizes_is_refused_before_they_are_made(tmp_path):
    save_encoder(tmp_path / "e.pt", FrozenEncoder(trained()))
    content = torch.load(tmp_path / "e.pt", weights_only=True)
    content["architecture"] |= {"height": 4096, "width": 4096, "embedding_size": 4096}  # terabytes
    torch.save(content, tmp_path / "e.pt")
    with pytest.raises(EncoderError, match="does not hold the networks"):
        load_encoder(tmp_path / "e.pt")
    sizes = Architecture(64, 64, 20, (4096, 4096))
    with torch.device("meta"):
        huge = Autoencoder(sizes).state_dict()
    repeated = {name: torch.zeros((), dtype=x.dtype).expand(x.shape) for name, x in huge.items()}  # one number each
    content |= {"architecture": {**asdict(sizes), "channels": list(sizes.channels)}, "weights": repeated}
    torch.save(content, tmp_path / "e.pt")
    with pytest.raises(EncoderError, match="damaged or no encoder"):
        load_encoder(tmp_path / "e.pt")


def test_too_little_data_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="collect more"):
        pretrain(make_data(tmp_path / "d", 20), QUICK, tmp_path / "e.pt", tmp_path / "r")


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"batch_size": 1}, {"batch_size": -5}, {"lr": 0.0}, {"validation": 1.0}, {"seed": -1}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be a (whole )?number"):
        PretrainConfig(**settings)
