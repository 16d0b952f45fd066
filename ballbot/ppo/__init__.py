"""Proximal policy optimisation for any Gymnasium vector environment."""

from ballbot.errors import SettingsError
from ballbot.ppo.agent import Agent
from ballbot.ppo.checkpoint import CheckpointError, load_checkpoint
from ballbot.ppo.config import PPOConfig
from ballbot.ppo.distributed import LostContactError, distributed_setup
from ballbot.ppo.episodes import evaluate
from ballbot.ppo.history import ObservationHistory
from ballbot.ppo.normalizer import RewardScaler, RunningNormalizer
from ballbot.ppo.policy import Policy, load_agent, load_policy
from ballbot.ppo.ppo import gae, ppo_loss, rollout, update
from ballbot.ppo.prior import FeedbackPrior
from ballbot.ppo.record import Hooks, Record
from ballbot.ppo.run_dir import RunDirectoryError
from ballbot.ppo.storage import DivergedError, Rollout
from ballbot.ppo.structure import Structure
from ballbot.ppo.symmetry import Symmetry
from ballbot.ppo.training import TrainResult, train
from ballbot.ppo.transfer import InitFrom

__all__ = [
    "Agent",
    "CheckpointError",
    "DivergedError",
    "FeedbackPrior",
    "Hooks",
    "InitFrom",
    "LostContactError",
    "ObservationHistory",
    "PPOConfig",
    "Policy",
    "Record",
    "RewardScaler",
    "Rollout",
    "RunDirectoryError",
    "RunningNormalizer",
    "SettingsError",
    "Structure",
    "Symmetry",
    "TrainResult",
    "distributed_setup",
    "evaluate",
    "gae",
    "load_agent",
    "load_checkpoint",
    "load_policy",
    "ppo_loss",
    "rollout",
    "train",
    "update",
]
