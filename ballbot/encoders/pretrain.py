"""Train an autoencoder on a data set of depth images, and say how good it is.

The images are split by terrain, so that validation shows ground never trained on.  Two baselines are validated on the
same images: the mean image, and principal components, as many as the embedding has numbers.
"""

from __future__ import annotations

import glob
import io
import math
import operator
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from ballbot.encoders.autoencoder import Architecture, Autoencoder
from ballbot.encoders.dataset import DatasetError, DepthDataset
from ballbot.encoders.frozen import FrozenEncoder, load_encoder, save_encoder
from ballbot.encoders.surroundings import Surroundings, leans, scans, views
from ballbot.ppo.checkpoint import CheckpointError, load_checkpoint, remove_parts, save_checkpoint
from ballbot.ppo.events import EventFile
from ballbot.ppo.run_dir import lock_run_dir
from ballbot.ppo.state import restore_optimizer
from ballbot.ppo.storage import DivergedError
from ballbot.settings import Range, check_settings

Indices = NDArray[np.int64]

MOST_PIXELS = 128 * 128
"""Of an image: the covariance of more takes over 2 GiB."""
BASELINE_IMAGES = 20_000
"""Training images that the baselines are fitted to: plenty for a few thousand pixels that vary together."""
GAP = 2
"""Pixels around each of them."""
SHOWN = 8
"""Validation images whose reconstructions TensorBoard shows."""
LAST_LEARNING_RATE = 0.01
"""Share of the learning rate that is left at the end of its cosine."""


@dataclass(frozen=True)
class PretrainConfig:
    """How an autoencoder is trained."""

    epochs: Annotated[int, Range(1, 10**6)] = 20
    """Passes over the training images."""
    batch_size: Annotated[int, Range(2, 10**6)] = 64
    """Images a gradient step; batch normalisation needs two."""
    lr: Annotated[float, Range(0, 1, open=True)] = 2e-3
    """Learning rate of Adam at the start; it falls along a cosine."""
    validation: Annotated[float, Range(0, 0.9, open=True)] = 0.15
    """Share of the terrains that are validated on."""
    patience: Annotated[int, Range(1, 10**6)] = 5
    """Epochs without a better validation before training stops."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Of weights, order and split."""
    embedding_size: Annotated[int, Range(1, 4096)] = 20
    """Numbers that stand for an image."""
    channels: tuple[int, ...] = (32, 32)
    """Of each convolution."""
    scan_weight: Annotated[float, Range(0, 1e6)] = 0.0
    """What it counts, beside the mean squared error of the images, that a small network can tell the heights of the
    ground around (the field scan) from what all cameras of a robot make of it (0: nothing)."""
    bf16: bool = False
    """Multiply in bfloat16: faster on CPUs that can (AMX), slower on those that cannot."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Baselines:
    """Simpler encoders on the validation images."""

    mean_image: float
    """Mean squared error, m²."""
    principal_components: float
    """Mean squared error, m², of as many as the embedding has numbers."""


def pretrain(
    data: DepthDataset,
    config: PretrainConfig,
    out: Path,
    log_dir: Path,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> FrozenEncoder:
    """Train, validate after every epoch, and keep the best encoder in ``out``.

    A stopped training goes on with the same numbers as if it had never stopped, given as many threads of PyTorch; with
    more ``epochs`` than before, the learning rate's cosine is stretched.

    Args:
        data: images.
        config: settings.
        out: the encoder's file; replaced whenever validation is better than before.
        log_dir: TensorBoard events and ``training.pt``, from which a stopped training goes on.
        resume: go on from ``log_dir``.
        say: told a line an epoch.

    Returns:
        the best encoder, as in ``out``.

    Raises:
        DatasetError: too few images or terrains.
        CheckpointError: there is nothing to go on from, or it was trained with other settings or data, or ``out`` is
            of another training.
        EncoderError: ``out``, to go on with, is missing or damaged.
        DivergedError: numbers stopped being finite.
        RunDirectoryError: another process trains in ``log_dir``.
        OSError: a file cannot be written.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    lock = lock_run_dir(log_dir)
    try:
        if lock is not None:
            remove_parts(log_dir)
            remove_parts(out.parent, glob.escape(out.name))
        return _pretrain(data, config, out, log_dir, resume, say)
    finally:
        if lock is not None:
            os.close(lock)


def _pretrain(
    data: DepthDataset, config: PretrainConfig, out: Path, log_dir: Path, resume: bool, say: Callable[[str], None]
) -> FrozenEncoder:
    if data.height * data.width > MOST_PIXELS:
        raise DatasetError(
            f"{data.folder} has images of {data.height} x {data.width}, whose principal components take gigabytes: "
            f"collect some of at most {MOST_PIXELS} pixels"
        )
    training, validation = data.split_by_terrain(config.validation, config.seed)
    if len(training) < config.batch_size:
        raise DatasetError(
            f"{data.folder} has {len(training)} images to train on, fewer than batch_size = {config.batch_size}: "
            "collect more"
        )
    architecture = Architecture(data.height, data.width, config.embedding_size, config.channels)
    torch.manual_seed(config.seed)
    networks = Autoencoder(architecture)
    networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    around = _Around(data, config) if config.scan_weight else None
    parameters = [*networks.parameters(), *(around.network.parameters() if around else ())]
    optimizer = torch.optim.Adam(parameters, config.lr)
    described: dict[str, Any] = {"config": {**asdict(config), "channels": list(config.channels)}, "data": data.card}
    checkpoint, epoch, best, since = log_dir / "training.pt", 0, math.inf, 0
    if resume:
        if not checkpoint.exists():
            raise CheckpointError(f"{checkpoint} does not exist, there is nothing to go on from: leave --resume out")
        state = load_checkpoint(checkpoint)
        if differing := _differences(state, described):
            raise CheckpointError(
                f"{checkpoint} was trained with other settings or data ({'; '.join(differing)}): give the old ones, or "
                "start anew without --resume, under another --run-name and --out"
            )
        if (threads := state.get("torch_threads")) != torch.get_num_threads():
            say(
                f"note: threads of PyTorch were {threads}, are {torch.get_num_threads()}: this rounds differently from "
                f"a training never stopped; --torch-threads {threads} does not"
            )
        try:
            networks.load_state_dict(state["networks"])
            if around is not None:
                around.network.load_state_dict(state["around"])
            restore_optimizer(optimizer, state["optimizer"])
            epoch, since = operator.index(state["epoch"]), operator.index(state["since"])
            best, baselines = float(state["best"]), Baselines(**{k: float(v) for k, v in state["baselines"].items()})
            if min(epoch, since) < 0:
                raise ValueError(f"epoch is {epoch}, since the best one {since}")
        except Exception as problem:  # whatever it is, the file is at fault: settings and data have been compared
            raise CheckpointError(
                f"{checkpoint} is damaged ({type(problem).__name__}: {problem}): start anew without --resume, under "
                "another --run-name and --out"
            ) from problem
        if epoch and not out.exists():
            raise CheckpointError(
                f"{out}, the best encoder of {checkpoint} so far, is gone: put it back, or start anew without "
                "--resume, under another --run-name"
            )
        if out.exists() and _differences(load_encoder(out).card, described):
            raise CheckpointError(
                f"{out} is not an encoder of {checkpoint}: give the file that the training wrote, or start anew "
                "without --resume, under another --run-name"
            )
    else:
        baselines, mean_image = measure_baselines(data, training, validation, config)
        networks.decoder.start_from(mean_image)

    def save() -> None:
        state = {
            **described,
            "torch_threads": torch.get_num_threads(),
            "networks": networks.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "best": best,
            "since": since,
            "baselines": asdict(baselines),
        }
        if around is not None:
            state["around"] = around.network.state_dict()
        save_checkpoint([checkpoint], state)

    if not resume:
        save()  # so that a training stopped in its first epoch can go on too
    say(
        f"{len(training):,} images to train on, {len(validation):,} of other terrains to validate; root mean square "
        f"error of the mean image {1e3 * baselines.mean_image**0.5:.2f} mm, of {config.embedding_size} principal "
        f"components {1e3 * baselines.principal_components**0.5:.2f} mm"
    )
    if epoch >= config.epochs or since >= config.patience:
        say(f"nothing is left to do after epoch {epoch}: more needs more epochs, or more patience")
    events = EventFile(log_dir, purge_step=epoch + 1)
    together = 1 if around is None else around.cameras
    firsts, per_step = training[::together], max(config.batch_size // together, 1)
    steps = len(firsts) // per_step
    start, first = time.perf_counter(), epoch
    while epoch < config.epochs and since < config.patience:
        order = np.random.default_rng((config.seed, epoch)).permutation(firsts)
        networks.train()
        total = torch.zeros(())
        for step in range(steps):
            progress = (epoch + step / steps) / config.epochs
            cosine = (1 + math.cos(math.pi * progress)) / 2
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (LAST_LEARNING_RATE + (1 - LAST_LEARNING_RATE) * cosine)
            seen = np.sort(order[step * per_step : (step + 1) * per_step])
            images = _batch(data, (seen[:, None] + np.arange(together)).ravel())
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
                embeddings = networks.encoder(images)
                decoded = networks.decoder(embeddings)
            loss = drawn = (decoded - images).square().mean()
            if around is not None:
                loss = drawn + config.scan_weight * around.error(embeddings, seen)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += drawn.detach()
        epoch += 1
        error = validate(networks, data, validation, config.batch_size)
        if not math.isfinite(error):
            raise DivergedError(f"the validation error is {error} after epoch {epoch}: lower lr and start anew")
        curves = {"train": float(total) / steps, "validation": error, **asdict(baselines)}
        told = ""
        if around is not None:
            curves["scan"] = around.validate(networks, validation)
            told = f", {1e3 * curves['scan'] ** 0.5:.1f} mm of the ground around"
        worth = error + config.scan_weight * curves.get("scan", 0.0)
        since = 0 if worth < best else since + 1
        try:
            events.scalars({f"mse/{name}": value for name, value in curves.items()}, epoch)
            if (picture := _png(_compare(networks, data, validation))) is not None:
                events.image("reconstructions", *picture, epoch)
        except OSError as problem:  # a curve is no reason to lose the epoch
            say(f"warning: curves of epoch {epoch} not written ({problem.strerror})")
        if worth < best:
            best = worth
            card = described | {"epoch": epoch, "validation_mse_m2": error, "baselines_mse_m2": asdict(baselines)}
            if around is not None:
                card["validation_scan_mse_m2"] = curves["scan"]
            card["images"] = {"training": len(training), "validation": len(validation)}
            save_encoder(out, FrozenEncoder(networks, data.max_depth, card))
        save()
        spent = time.perf_counter() - start
        left = spent / (epoch - first) * (config.epochs - epoch)
        say(
            f"epoch {epoch:3d} of {config.epochs}: root mean square error in training "
            f"{1e3 * (float(total) / steps) ** 0.5:.2f} mm, validation {1e3 * error**0.5:.2f} mm{told}"
            f"{' (best)' if since == 0 else ''}, {(epoch - first) * len(training) / spent:,.0f} images/s, "
            f"left {left:,.0f} s"
        )
    return load_encoder(out)


class _Around:
    """The network that tells the ground around from embeddings, and the truth that it learns from.

    Raises:
        DatasetError, SettingsError: the data set does not tell what ground it shows.
    """

    def __init__(self, data: DepthDataset, config: PretrainConfig) -> None:
        whole = views(data, np.arange(len(data)))
        self.cameras = whole.shape[1]
        self.network = Surroundings(self.cameras * config.embedding_size)
        self._data, self._batch_size = data, config.batch_size
        self._truth = torch.from_numpy(scans(data, whole[:, 0]))
        self._leans = torch.from_numpy(leans(data, whole[:, 0])).float()

    def error(self, embeddings: torch.Tensor, firsts: Indices) -> torch.Tensor:
        """Mean squared error, m², of what is told of views by (images, size) embeddings; their first images."""
        rows = firsts // self.cameras
        told = self.network(embeddings.reshape(len(rows), -1), self._leans[rows])
        return (told - self._truth[rows]).square().mean()

    @torch.no_grad()
    def validate(self, networks: Autoencoder, part: Indices) -> float:
        """The same of all views of a part."""
        networks.eval()
        firsts, total = part[:: self.cameras], 0.0
        for start in range(0, len(firsts), self._batch_size):
            seen = firsts[start : start + self._batch_size]
            images = _batch(self._data, (seen[:, None] + np.arange(self.cameras)).ravel())
            total += float(self.error(networks.encoder(images), seen)) * len(seen)
        return total / len(firsts)


def _differences(content: dict[str, Any], described: dict[str, Any]) -> list[str]:
    """How a file of a training differs from these settings and data; how long it goes on may differ."""

    def flat(value: Any, name: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            return {name: value}
        return {k: v for key, x in value.items() for k, v in flat(x, f"{name}.{key}".lstrip(".")).items()}

    # older trainings do not name what they did not have
    old, new = (
        {"config.scan_weight": 0.0} | flat({key: x.get(key) for key in described}) for x in (content, described)
    )
    names = [n for n in {**old, **new} if n not in ("config.epochs", "config.patience")]
    return [f"{n} was {old.get(n)!r}, is {new.get(n)!r}" for n in names if old.get(n) != new.get(n)]


@torch.no_grad()
def validate(networks: Autoencoder, data: DepthDataset, indices: Indices, batch_size: int) -> float:
    """Mean squared error, m², of the reconstructions of these images."""
    networks.eval()
    total = 0.0
    for start in range(0, len(indices), batch_size):
        images = _batch(data, indices[start : start + batch_size])
        total += float((networks(images) - images).square().sum(dtype=torch.float64))
    return total / (len(indices) * data.height * data.width)


def measure_baselines(
    data: DepthDataset, training: Indices, validation: Indices, config: PretrainConfig
) -> tuple[Baselines, torch.Tensor]:
    """How well the mean image and principal components do on the validation images, and the (pixels,) mean image."""
    rng = np.random.default_rng(config.seed)
    fitted = np.sort(rng.choice(training, min(BASELINE_IMAGES, len(training)), replace=False))
    mean, axes = principal_components(torch.from_numpy(data.images(fitted)).flatten(1), config.embedding_size)
    errors = np.zeros(2)
    for start in range(0, len(validation), config.batch_size):
        left = _batch(data, validation[start : start + config.batch_size]).flatten(1) - mean
        rest = left - (left @ axes) @ axes.T
        errors += [float(x.square().sum(dtype=torch.float64)) for x in (left, rest)]
    mean_image, components = errors / (len(validation) * data.height * data.width)
    return Baselines(float(mean_image), float(components)), mean


def principal_components(images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (pixels,) and the ``count`` principal axes (pixels, count), orthonormal, of (k, pixels) images."""
    mean = images.mean(0)
    centred = (images - mean).double()
    if count <= len(centred) < centred.shape[1]:
        return mean, torch.linalg.svd(centred, full_matrices=False)[2][:count].T.float()
    # the largest eigenvectors of the covariance: as good as a singular value decomposition, and, of many images, much
    # less to compute
    return mean, torch.linalg.eigh(centred.T @ centred)[1][:, -count:].float()


def _batch(data: DepthDataset, indices: Indices) -> torch.Tensor:
    return torch.from_numpy(data.images(indices))[:, None].contiguous(memory_format=torch.channels_last)


def _png(picture: torch.Tensor) -> tuple[bytes, tuple[int, int, int]] | None:
    """A (1, height, width) picture in [0, 1] and its (height, width, channels); None without Pillow."""
    try:
        from PIL import Image  # not all versions of TensorBoard bring it
    except ImportError:
        return None
    buffer = io.BytesIO()
    Image.fromarray((picture[0] * 255).byte().numpy()).save(buffer, "PNG")
    return buffer.getvalue(), (picture.shape[1], picture.shape[2], 1)


@torch.no_grad()
def _compare(networks: Autoencoder, data: DepthDataset, validation: Indices) -> torch.Tensor:
    """(1, height, width) in [0, 1]: some images in a row, below them what is left of them, and the difference.

    Near is bright, as the root of the depth; in the difference, white is 2 % of the largest depth.
    """
    networks.eval()
    images = _batch(data, validation[:: max(len(validation) // SHOWN, 1)][:SHOWN])
    decoded = networks(images)
    rows = [1 - (x / data.max_depth).clamp(0, 1).sqrt() for x in (images, decoded)]
    rows.append(((decoded - images).abs() / (0.02 * data.max_depth)).clamp(0, 1))
    framed = [torch.cat([pad(x[0], (GAP, GAP, GAP, GAP), value=1.0) for x in row], dim=1) for row in rows]
    return torch.cat(framed, dim=0)[None]
