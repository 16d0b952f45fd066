"""The robot's eyes: an autoencoder of depth images, the data it learns from, and its frozen encoder.

Hand a trained encoder to the environment::

    from ballbot.encoders import load_encoder
    from ballbot.envs import BallbotVectorEnv
    envs = BallbotVectorEnv(64, observation="encoded", encoder=load_encoder("encoder.pt"))

``experiments/collect_depth.py`` makes a data set and ``experiments/pretrain_encoder.py`` learns from one.
"""

from ballbot.encoders.autoencoder import Architecture, Autoencoder
from ballbot.encoders.dataset import DatasetError, DepthDataset
from ballbot.encoders.frozen import EncoderError, FrozenEncoder, encoder_file, find_encoder, load_encoder, save_encoder

__all__ = [
    "Architecture",
    "Autoencoder",
    "DatasetError",
    "DepthDataset",
    "EncoderError",
    "FrozenEncoder",
    "encoder_file",
    "find_encoder",
    "load_encoder",
    "save_encoder",
]
