"""Trained encoders: one file each, and frozen for good once loaded.

A file holds weights, architecture, what images it expects, a card (what it was trained on and how well it does) and a
hash of the content, by which a policy recognises the eyes it was trained with.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ballbot.encoders.autoencoder import Architecture, Autoencoder
from ballbot.encoders.dataset import MAX_DEPTH
from ballbot.envs.rig import alike
from ballbot.errors import BallbotError
from ballbot.ppo.archive import read_archive
from ballbot.ppo.checkpoint import run_dir_of, write_atomic

FORMAT_VERSION = 1
DEFAULT_ENCODER = Path(__file__).parents[1] / "assets" / "encoder.pt"
"""What comes with ballbot: 20 numbers an image of 64 x 64, see its card and docs/results.md."""
OUTWARD_ENCODER = DEFAULT_ENCODER.with_name("encoder_outward.pt")
"""The same of cameras that look outward as those of a ``CameraRig`` with its defaults do: see docs/seeing.md."""
LEARNED: dict[Path, dict[str, Any]] = {DEFAULT_ENCODER: {}, OUTWARD_ENCODER: {"number": 3}}
"""Encoder that comes with ballbot -> options of the cameras whose images it has learned."""
BATCH = 8
"""Images encoded together, always: matrix products round differently for other numbers of rows, and an image must give
the same numbers whether one robot or a thousand look."""
MAX_FILE_SIZE = 2**30
"""Bytes; a thousand times the reference's encoder."""


class EncoderError(BallbotError, RuntimeError):
    """An encoder's file is missing, damaged, or of something else; the message names file and remedy."""


class FrozenEncoder(nn.Module):
    """An encoder that nothing changes: no gradients, no statistics that move, not even under ``train()``.

    Args:
        autoencoder: trained networks; copied.
        max_depth: m, the largest depth in the images it was trained on.
        card: plain data about its training.

    Raises:
        ValueError: an impossible ``max_depth``.
    """

    thread_safe = True
    """Several threads may encode at once; nothing changes."""

    def __init__(self, autoencoder: Autoencoder, max_depth: float = 1.0, card: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.architecture = autoencoder.architecture
        self.max_depth = float(max_depth)
        if not 0 < self.max_depth <= MAX_DEPTH:
            raise ValueError(f"max_depth = {max_depth!r} is out of range: use more than 0, at most {MAX_DEPTH:g} m")
        self.card = {} if card is None else card
        networks = Autoencoder(self.architecture)
        networks.load_state_dict(autoencoder.state_dict())  # in float32, whatever they were
        self.weights = {name: x.detach().cpu().clone() for name, x in networks.state_dict().items()}
        self.content_hash = content_hash(self.architecture, self.max_depth, self.weights)
        """64 hexadecimal digits: architecture, input and weights of the encoder."""
        self.layers = _without_batch_norm(networks.encoder.eval())
        # convolutions of few channels take a fifth less time so
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.decoder = networks.decoder.eval()
        self.decoder.convolutions = _without_batch_norm(networks.decoder.convolutions)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        """Does nothing: the encoder stays as it was trained."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Refuses to be trained.

        Raises:
            RuntimeError: for True.
        """
        if requires_grad:
            raise RuntimeError("this encoder is frozen: train an Autoencoder and load what save_encoder wrote")
        return super().requires_grad_(False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("this encoder is frozen, its weights are its file's: use load_encoder")

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(k, embedding_size) embeddings in [-1, 1] of (k, 1, height, width) float32 images, depth in m.

        Raises:
            ValueError: images of another shape, dtype or range.
        """
        a = self.architecture
        if images.shape[1:] != (1, a.height, a.width) or images.dtype != torch.float32:
            if images.ndim == 4 and images.shape[-2:] == (a.height, a.width):
                remedy = f"pass images.reshape(-1, 1, {a.height}, {a.width}).float(), the cameras one after the other"
            else:
                remedy = "set the cameras' resolution (camera_resolution), or load another encoder"
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}, this encoder takes torch.float32 (k, 1, {a.height}, "
                f"{a.width}): {remedy}"
            )
        if not len(images):
            return images.new_zeros((0, a.embedding_size))
        low, high = (float(x) for x in images.aminmax())
        if not (low >= 0 and high <= np.float32(self.max_depth)):  # NaN too
            raise ValueError(
                f"images hold depths from {low:g} to {high:g}, this encoder takes 0 to {self.max_depth:g} m: clip them "
                "and check their unit"
            )
        parts = []
        for part in torch.split(images, BATCH):
            missing = BATCH - len(part)
            whole = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part
            parts.append(self.layers(whole.contiguous())[: len(part)])
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(k, 1, height, width) depth images in m as the decoder sees (k, embedding_size) embeddings."""
        decoded: torch.Tensor = self.decoder(embeddings)
        return decoded.clamp(0.0, self.max_depth)


def kept_encoder(run_dir: str | Path, content_hash: str) -> Path:
    """Where a training keeps a copy of its policy's encoder."""
    return Path(run_dir) / f"encoder_{content_hash[:16]}.pt"


def find_encoder(
    content_hash: str, checkpoint: str | Path | None = None, device: str | torch.device = "cpu"
) -> FrozenEncoder:
    """The encoder with this hash: kept in the run of this checkpoint, or one that comes with ballbot.

    Raises:
        EncoderError: it is neither.
        ValueError: no such device here.
    """
    run_dir = Path() if checkpoint is None else run_dir_of(checkpoint)
    kept = kept_encoder(run_dir, content_hash)
    for path in [kept] if checkpoint is not None and kept.is_file() else LEARNED:
        encoder = load_encoder(path, device)
        if encoder.content_hash == content_hash:
            return encoder
    raise EncoderError(
        f"this policy was trained with the encoder {content_hash[:16]}, which {run_dir} does not keep and which "
        "does not come with ballbot: give its file by --encoder"
    )


def encoder_file(rig: Mapping[str, Any]) -> Path:
    """Of what comes with ballbot: the encoder that has learned what these cameras see, or the reference's.

    Args:
        rig: options of a ``CameraRig``, as ``WorldConfig.rig``; none are the reference's two.

    Raises:
        SettingsError: they are no such options.
    """
    return next((path for path, learned in LEARNED.items() if alike(learned, rig)), DEFAULT_ENCODER)


def save_encoder(path: str | Path, encoder: FrozenEncoder) -> None:
    """Write an encoder's file; whatever stops the program, the old file or the new one is there whole.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encoder_bytes(encoder))


def encoder_bytes(encoder: FrozenEncoder) -> bytes:
    """Content of an encoder's file."""
    content = io.BytesIO()
    torch.save(
        {
            "format_version": FORMAT_VERSION,
            "kind": "encoder",
            "architecture": {**asdict(encoder.architecture), "channels": list(encoder.architecture.channels)},
            "max_depth": encoder.max_depth,
            "weights": encoder.weights,
            "card": json.dumps(encoder.card),
            "content_hash": encoder.content_hash,
        },
        content,
    )
    return content.getvalue()


def load_encoder(path: str | Path | None = None, device: str | torch.device = "cpu") -> FrozenEncoder:
    """The frozen encoder in a file that ``pretrain_encoder.py`` wrote.

    Args:
        path: the file; None takes the encoder that comes with ballbot for the reference's cameras.
        device: where its weights are put.

    Raises:
        EncoderError: the file is missing, damaged, or not an encoder's.
        ValueError: no such device here.
    """
    path = DEFAULT_ENCODER if path is None else Path(path)
    if not path.is_file():
        raise EncoderError(f"{path} does not exist or is no file: give a file that pretrain_encoder.py wrote")
    if (size := path.stat().st_size) > MAX_FILE_SIZE:
        raise EncoderError(
            f"{path} has {size} bytes, more than any encoder: give a file that pretrain_encoder.py wrote"
        )
    try:
        with open(path, "rb") as file:
            content = read_archive(file)
    except Exception as error:
        raise EncoderError(
            f"{path} is damaged or no encoder ({type(error).__name__}): copy or train it again"
        ) from error
    if not isinstance(content, dict) or content.get("kind") != "encoder":
        raise EncoderError(f"{path} holds no encoder: give a file that pretrain_encoder.py wrote")
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise EncoderError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: use the "
            "version of the program that wrote it"
        )
    try:
        with torch.device("meta"):  # takes no memory, whatever sizes a file names
            networks = Autoencoder(Architecture(**content["architecture"]))
        networks.load_state_dict(content["weights"], assign=True)
        if not all(x.isfinite().all() for x in networks.state_dict().values()):
            raise ValueError("weights are not finite")
        card = json.loads(content["card"])
        if not isinstance(card, dict):
            raise ValueError(f"its card is {type(card).__name__}")
        encoder = FrozenEncoder(networks, float(content["max_depth"]), card)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, AttributeError) as error:
        raise EncoderError(
            f"{path} does not hold the networks it describes ({error}): copy or train it again"
        ) from error
    if encoder.content_hash != content.get("content_hash"):
        raise EncoderError(f"{path} does not match its own content hash: it was changed or damaged, copy it again")
    try:
        return encoder.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device!r} cannot be used ({error}): use 'cpu', or 'cuda' with a GPU") from error


def content_hash(architecture: Architecture, max_depth: float, weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of what decides the embeddings: architecture, input and the encoder's weights, not the decoder's."""
    digest = hashlib.sha256(f"{architecture} {max_depth}".encode())
    for name in sorted(weights):
        if name.startswith("encoder."):
            tensor = weights[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _without_batch_norm(layers: nn.Module) -> nn.Sequential:
    """The same function with each batch normalisation folded into the layer before it: less to compute."""
    folded: list[nn.Module] = []
    for layer in layers.children():
        if isinstance(layer, nn.BatchNorm2d) and isinstance(folded[-1], nn.Conv2d):
            folded[-1] = fuse_conv_bn_eval(folded[-1], layer)
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(folded[-1], nn.ConvTranspose2d):
            folded[-1] = fuse_conv_bn_eval(folded[-1], layer, transpose=True)
        elif isinstance(layer, nn.BatchNorm1d) and isinstance(folded[-1], nn.Linear):
            folded[-1] = fuse_linear_bn_eval(folded[-1], layer)
        else:
            folded.append(layer)
    return nn.Sequential(*folded)
