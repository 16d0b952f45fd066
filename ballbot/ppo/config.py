"""Settings of a PPO run: one flat dataclass, checked when it is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import torch

from ballbot.errors import SettingsError
from ballbot.settings import Range, check_settings, setting

# All upper bounds are far outside useful settings: they catch a slipped digit before it costs a day or all memory.
MAX_COUNT = 10**12
"""Upper bound of every count."""
MAX_ENVS = 2**20
"""Upper bound of `num_envs`: sub-environment i is seeded with seed + i, which must stay below 2**31."""
MAX_BATCH = 10**9
"""Upper bound of the steps in a rollout: each takes 100 bytes and 8 per number observed."""
MAX_WEIGHTS = 10**9
"""Upper bound of the weights between hidden layers: each takes 16 bytes or more in training."""

MAX_CNN_LAYERS = 16
"""After so many halvings nothing is left of any image."""
MAX_CHANNELS = 4096
"""Upper bound of the channels of a convolutional layer."""

T = TypeVar("T")
Count = Annotated[int, Range(1, MAX_COUNT)]
Activation = Literal["tanh", "relu", "elu", "leaky_relu", "silu"]
Schedule = Literal["constant", "linear", "cosine", "piecewise", "adaptive"]


@dataclass
class PPOConfig:
    """Settings of a PPO run; the defaults suit many tasks, the robot has better ones.

    Raises:
        SettingsError: (a ValueError) a value is of another type, out of range, NaN, or does not fit the others; the
            message says which and what to do.
    """

    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Seed of the networks, the exploration noise, the minibatch order and the training environments."""
    total_timesteps: Count = setting(4_000_000, on_resume="free")
    """Environment steps to train for, over all environments; rounded up to whole updates.  Schedules of the learning
    rate and of final_std run over them, so that few end exploration early, and resuming with more stretches them, and
    both jump up again at that moment, unless schedule_timesteps is given."""
    schedule_timesteps: Count | None = setting(None, on_resume="noted")
    """Environment steps over which learning rate and final_std run through their schedules; they stay at the end of it
    afterwards (None: total_timesteps)."""
    imitation_timesteps: Annotated[int, Range(0, MAX_COUNT)] = 0
    """Environment steps, the first of all, in which the policy learns what a teacher does, by DAgger, and PPO does not
    learn yet; schedules of PPO run over what is left."""
    imitation_learning_rate: Annotated[float, Range(0, 10, open=True)] = 1e-3
    """Initial step size of AdamW while the policy imitates; it falls to 0 in a straight line."""
    device: str = setting("cpu", on_resume="noted")
    """Where the networks live: "cpu", "cuda" or "cuda:<index>"."""
    torch_deterministic: bool = setting(True, on_resume="free")
    """Use deterministic kernels, so that equal seeds give equal bits on the same machine and thread count."""
    torch_threads: Annotated[int, Range(0, 1024)] = setting(1, on_resume="free")
    """Threads of PyTorch while it trains (0: PyTorch's choice, which is written down).  Networks this small gain little
    from more and lose much on a busy machine; another count rounds differently, hence gives another run.  With a CPU
    left, the value function learns in as many threads beside the policy, which changes no number."""
    compile: bool = setting(False, on_resume="free")
    """Compile policy and loss with torch.compile; meant for GPUs, small networks on a CPU get slower."""

    num_envs: Annotated[int, Range(1, MAX_ENVS)] = setting(64, on_resume="noted")
    """Parallel environments, over all processes."""
    num_steps: Annotated[int, Range(1, 10**6)] = setting(128, on_resume="noted")
    """Steps each environment takes between two updates."""
    action_repeat: Annotated[int, Range(1, 500)] = 1
    """Environment steps for which training holds an action; evaluation holds none.  Everything that counts steps counts
    each of them, except num_steps and minibatch_size, which count actions.  The training environments do the holding:
    BallbotVectorEnv has an option of this name."""
    gamma: Annotated[float, Range(0, 1, open=True)] = 0.995
    """Discount factor, from an action to the next."""
    gae_lambda: Annotated[float, Range(0, 1)] = 0.95
    """Decay of the generalised advantage estimate (0: one-step, 1: Monte Carlo)."""

    learning_rate: Annotated[float, Range(0, 10, open=True)] = setting(3e-4, on_resume="noted")
    """Initial step size of AdamW."""
    lr_schedule: Schedule = setting("linear", on_resume="noted")
    """How the learning rate changes over training; "adaptive" lowers it after an update that target_kl stopped and
    raises it after one that stayed below half of target_kl."""
    min_learning_rate: Annotated[float, Range(0, 10, open=True)] = setting(1e-5, on_resume="noted")
    """Lowest learning rate of the adaptive schedule."""
    max_learning_rate: Annotated[float, Range(0, 10)] = setting(1e-2, on_resume="noted")
    """Highest learning rate of the adaptive schedule."""
    adam_eps: Annotated[float, Range(0, 1, open=True)] = 1e-5
    """AdamW's epsilon: gradients well below it move weights less than learning_rate.  1e-5 is that of Huang et al. 2022
    ("The 37 implementation details of PPO"), 1e-8 PyTorch's; it matters where advantages are not normalised."""
    update_epochs: Annotated[int, Range(1, 1000)] = 5
    """Passes over the collected steps in one update."""
    minibatch_size: Count = setting(1024, on_resume="noted")
    """Steps in one gradient step, over all processes; num_envs * num_steps must be a multiple of it."""
    clip_range: Annotated[float, Range(0, 10, open=True)] = 0.2
    """How far the probability ratio may move from 1 before the objective stops rewarding it."""
    value_clip_range: Annotated[float, Range(0, 10**6, open=True)] | None = None
    """How far the value may move from its old prediction (None: not clipped)."""
    target_kl: Annotated[float, Range(0, 100, open=True)] | None = 0.01
    """An update stops before the gradient step at which the KL divergence exceeds 1.5 times this, if set."""
    ent_coef: Annotated[float, Range(0, 1000)] = 0.0
    """Weight of the entropy bonus in the loss."""
    vf_coef: Annotated[float, Range(0, 1000)] = 0.5
    """Weight of the value loss, which is half the mean squared error."""
    max_grad_norm: Annotated[float, Range(0, 10**6, open=True)] | None = 0.5
    """Longest allowed gradient, as the norm over all parameters (None: not clipped)."""
    weight_decay: Annotated[float, Range(0, 10)] = 0.01
    """AdamW weight decay of weight matrices; biases, norms and the log standard deviation are not decayed."""
    normalize_advantage: bool = True
    """Shift and scale the advantages of each rollout to mean 0 and standard deviation 1."""
    normalize_advantage_per_minibatch: bool = False
    """With normalize_advantage: do so for each minibatch, not each rollout, as CleanRL and stable-baselines3 do."""
    normalize_observations: bool = True
    """Normalise observations by running statistics; the first rollout then only measures them."""
    normalize_observations_per_step: bool = False
    """With normalize_observations: let the statistics move at every step, not once a rollout, as CleanRL and
    stable-baselines3 do; the first rollout is then learned from too."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return, which moves at every step."""
    normalize_values: bool = False
    """Learn values in units of the running mean and spread of the returns: errors then count by what still tells states
    apart, however large the returns are (PopArt; van Hasselt et al. 2016, arXiv:1602.07714)."""

    policy_average: Annotated[float, Range(0, 0.9999)] | None = 0.93
    """Decay per update of the running average of all parameters that is evaluated and deployed (None: no average)."""

    hidden_size: Annotated[int, Range(1, 16384)] = 128
    """Units in each hidden layer."""
    num_layers: Annotated[int, Range(1, 64)] = 3
    """Hidden layers in each network."""
    activation: Activation = "leaky_relu"
    """Non-linearity after each hidden layer."""
    value_only: tuple[str, ...] = ()
    """Keys of a Dict observation that only the value function gets: what is known in training and not where the policy
    is to act (asymmetric actor-critic; Pinto et al. 2017, arXiv:1710.06542)."""
    shared_trunk: bool = False
    """Let policy and value share their hidden layers."""
    linear_skip: bool = False
    """Add a linear map of the observation, at first 0, to the policy's output: what is nearly linear in a task, as
    balancing is, is then learned sooner (Srouji et al. 2018, arXiv:1802.08311)."""
    cnn_channels: tuple[int, ...] = ()
    """Channels after each layer of the convolutional networks that read images, observations of three axes (empty: an
    image is numbers like any other).  3 x 3 weights with stride 2; policy and value function have their own."""
    cnn_features: Annotated[int, Range(1, 16384)] = 64
    """Numbers that they make of an image."""
    memory: Literal["none", "gru"] = "none"
    """"gru": policy and value function remember, each by a gated recurrent unit of its own, whose numbers its hidden
    layers get beside the observation.  Minibatches are whole sequences of num_steps then."""
    memory_size: Annotated[int, Range(1, 16384)] = 64
    """Numbers that each of them remembers."""
    initial_std: Annotated[float, Range(0, 100, open=True)] = math.exp(-1)
    """Initial standard deviation of the exploration noise (continuous actions only)."""
    min_std: Annotated[float, Range(0, 100, open=True)] | None = None
    """Lowest standard deviation the exploration noise may reach (None: no limit)."""
    final_std: Annotated[float, Range(0, 100, open=True)] | None = None
    """Highest standard deviation at the end of training; the bound falls there from initial_std, exponentially (None:
    no bound).  What is learned with much noise is sound, what is learned with little uses it."""
    final_std_share: Annotated[float, Range(0, 1, open=True)] = setting(1.0, on_resume="noted")
    """Share of the schedule after which the bound has fallen to final_std, where it stays."""

    eval_interval: Count = setting(250_000, on_resume="free")
    """Environment steps between two evaluations; the first comes after 100,000 at the latest."""
    eval_episodes: Annotated[int, Range(1, 10**5)] = setting(20, on_resume="new best")
    """Episodes of one evaluation, each in an environment of its own."""
    eval_seed: Annotated[int, Range(0, 2**31 - 1 - MAX_ENVS)] = setting(10_000, on_resume="new best")
    """Seed of the evaluation environments, the same at every evaluation and in every run."""
    checkpoint_interval: Count = setting(250_000, on_resume="free")
    """Environment steps between two numbered checkpoints; last.pt is written after every update, unless updates are so
    short that this would take a twentieth of the time."""
    keep_checkpoints: Count = setting(3, on_resume="free")
    """Newest step_<N>.pt files to keep; last.pt and best.pt are kept besides."""

    def __post_init__(self) -> None:
        check_settings(self)
        self.value_only = several("value_only", self.value_only, str)
        self.cnn_channels = several("cnn_channels", self.cnn_channels, int)
        if len(self.cnn_channels) > MAX_CNN_LAYERS or not all(1 <= n <= MAX_CHANNELS for n in self.cnn_channels):
            raise SettingsError(
                f"cnn_channels = {self.cnn_channels} must be at most {MAX_CNN_LAYERS} whole numbers from 1 to "
                f"{MAX_CHANNELS}"
            )
        if self.value_only and self.shared_trunk:
            raise SettingsError(
                f"value_only = {self.value_only} needs a value function with hidden layers of its own: "
                "shared_trunk=False"
            )
        try:
            device = torch.device(self.device)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda") or (device.type == "cpu" and self.device != "cpu"):
            raise SettingsError(f'device must be "cpu", "cuda" or "cuda:<index>", got {self.device!r}')
        for name, where in (("normalize_advantage", "per_minibatch"), ("normalize_observations", "per_step")):
            if getattr(self, f"{name}_{where}") and not getattr(self, name):
                raise SettingsError(f"{name}_{where} is on and {name} off: set both or none")
        measures = self.normalize_observations and not self.normalize_observations_per_step
        if measures and self.total_timesteps <= self.rollout_size:
            raise SettingsError(
                f"total_timesteps = {self.total_timesteps} is no more than one rollout of num_envs * num_steps * "
                f"action_repeat = {self.rollout_size} steps, and with normalize_observations the first rollout only "
                "measures the observations: nothing would be learned. Raise total_timesteps or lower num_steps"
            )
        if self.imitation_timesteps > self.total_timesteps:
            raise SettingsError(
                f"imitation_timesteps = {self.imitation_timesteps} is above total_timesteps = {self.total_timesteps}, "
                "of which it is a part: lower the former, or raise the latter"
            )
        if measures and 0 < self.imitation_timesteps <= self.rollout_size:
            raise SettingsError(
                f"imitation_timesteps = {self.imitation_timesteps} is no more than the first rollout of "
                f"{self.rollout_size} steps, which only measures the observations: nothing would be imitated. Raise it"
            )
        if (self.schedule_timesteps or math.inf) <= self.imitation_timesteps < self.total_timesteps:
            raise SettingsError(
                f"schedule_timesteps = {self.schedule_timesteps} ends before what follows the "
                f"imitation_timesteps = {self.imitation_timesteps}, which would have a learning rate of 0: raise it"
            )
        if self.batch_size % self.minibatch_size:
            raise SettingsError(
                f"num_envs * num_steps = {self.num_envs} * {self.num_steps} = {self.batch_size} is not a "
                f"multiple of minibatch_size = {self.minibatch_size}; choose one that divides it"
            )
        if self.memory == "gru" and self.minibatch_size % self.num_steps:
            raise SettingsError(
                f"minibatch_size = {self.minibatch_size} is not a multiple of num_steps = {self.num_steps}, and with "
                f'memory = "gru" minibatches are whole sequences of num_steps: choose {self._nearest_minibatch()}'
            )
        if self.batch_size > MAX_BATCH:
            raise SettingsError(
                f"num_envs * num_steps = {self.num_envs} * {self.num_steps} is above {MAX_BATCH:.0e}, and a rollout is "
                "kept in memory; lower one of them"
            )
        if (weights := self.num_layers * self.hidden_size**2) > MAX_WEIGHTS:
            raise SettingsError(
                f"num_layers * hidden_size² = {self.num_layers} * {self.hidden_size}² = {weights:.0e} weights are "
                f"above {MAX_WEIGHTS:.0e}; lower one of them"
            )
        steps, what = self.batch_size, "rollout; raise num_steps or num_envs"
        if self.normalize_advantage_per_minibatch:
            steps, what = self.minibatch_size, "minibatch; raise minibatch_size"
        if self.normalize_advantage and steps == 1:
            raise SettingsError(f"normalize_advantage needs more than one step in a {what}")
        if self.lr_schedule == "adaptive" and self.target_kl is None:
            raise SettingsError('lr_schedule "adaptive" follows target_kl, which is None; set target_kl')
        if self.min_learning_rate > self.max_learning_rate:
            raise SettingsError(
                f"min_learning_rate = {self.min_learning_rate} is above max_learning_rate = {self.max_learning_rate}"
            )
        if self.lr_schedule == "adaptive" and not (
            self.min_learning_rate <= self.learning_rate <= self.max_learning_rate
        ):
            raise SettingsError(
                f'lr_schedule "adaptive" starts at learning_rate = {self.learning_rate:g}, which is not between '
                f"min_learning_rate = {self.min_learning_rate:g} and max_learning_rate = {self.max_learning_rate:g}"
            )
        if self.min_std is not None and self.min_std > self.initial_std:
            raise SettingsError(f"min_std = {self.min_std} is above initial_std = {self.initial_std}")
        if self.final_std is not None and not (self.min_std or 0.0) <= self.final_std <= self.initial_std:
            raise SettingsError(
                f"final_std = {self.final_std} must be from min_std = {self.min_std} to initial_std = "
                f"{self.initial_std}: the bound falls"
            )

    def _nearest_minibatch(self) -> int:
        sizes = [k * self.num_steps for k in range(1, self.num_envs + 1) if self.num_envs % k == 0]
        return min(sizes, key=lambda size: abs(size - self.minibatch_size))

    @property
    def batch_size(self) -> int:
        """Actions collected for one update, over all environments and processes."""
        return self.num_envs * self.num_steps

    @property
    def rollout_size(self) -> int:
        """Environment steps that they take."""
        return self.batch_size * self.action_repeat


def several(name: str, value: Any, kind: type[T]) -> tuple[T, ...]:
    """A setting that is several values, from a list, too, as files have it.

    Raises:
        SettingsError: it is something else.
    """
    if not isinstance(value, (tuple, list)) or not all(type(item) is kind for item in value):
        raise SettingsError(f"{name} must be a list of {'texts' if kind is str else 'whole numbers'}, got {value!r}")
    return tuple(value)
