"""One robot that is driven: it stands until it is told something, and goes on until somebody wants another beginning.

    drive = Drive(envs, actor)
    drive.hold((0.0, 1.0))     # a stick, along the world's y
    drive.step()

Who falls lies there for a moment and stands up again where its ground begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballbot.driving.steering import by_stick, standing
from ballbot.envs import BallbotVectorEnv
from ballbot.errors import SettingsError
from ballbot.evaluation.episodes import Actor

Array = NDArray[np.float64]

LYING = 1.5
"""s that who fell lies there."""
PUSH = 0.1
"""m/s, how much faster a push makes the body: that of the reference gets 0.4 N s.  Of 128 robots that the policy
"default" balances, 6 % of those that stood fell, and 16 % of those that went as fast as they could."""
SPEEDS = (1.0, 0.5, 0.25, 0.1)
"""Seconds of simulation in a second, one after the other."""
STEERED = 0.02
"""s from a look at the stick to the next: far less than a robot takes to answer, far more than a step."""


@dataclass(frozen=True)
class Now:
    """What there is to tell of the robot."""

    seconds: float
    """Of this episode."""
    direction: Array
    """(2,) where it is told to go, along the world's x and y: m/s, or for goals and places a unit vector."""
    turn: float
    """rad/s that it is told to turn."""
    place: Array | None
    """(2,) m, where it is sent; None if the command is of another kind."""
    velocity: Array
    """(2,) m/s along the world's x and y."""
    tilt_deg: float
    torques: Array
    """(wheels,) N m."""


class Drive:
    """A robot and who balances it.

    Args:
        envs: a single robot, with a time limit that nobody reaches.
        actor: the policy or controller.
        seed: of the first episode.
        speed: seconds of simulation in a second at first.

    Raises:
        SettingsError: the robot cannot be told where to go.
    """

    def __init__(self, envs: BallbotVectorEnv, actor: Actor, seed: int = 0, speed: float = 1.0) -> None:
        self.envs, self._actor = envs, actor
        self.speed = speed
        """Seconds of simulation in a second."""
        self.episode = 0
        """How many have begun."""
        self.falls = 0
        self.pushes = 0
        self.pushed = np.zeros(2)
        """Where the last push went, a unit vector of the world."""
        self.said = ""
        """The last thing that is worth telling."""
        self._stick, self._turn, self._held = np.zeros(2), 0.0, False
        self._kept: Array | None = None
        self._lying = 0
        self._steps = 0
        self._steered_every = max(round(STEERED / envs.dt), 1)
        self._obs: Any = None
        self._began = np.ones(1, bool)
        self._begin(seed=seed)
        try:
            self.tell(standing(envs.world.told.command, self._place()))
        except SettingsError as error:
            raise SettingsError(
                f"this robot cannot be driven ({error}): drive a policy that observes its command, or lqr"
            ) from error

    # -- What it is told ----------------------------------------------------------------------------------------------

    def tell(self, values: Array) -> None:
        """Tell the robot something, which it is told in the episodes to come, too.

        Raises:
            SettingsError: that cannot be asked for; it goes on as before.
        """
        self.envs.set_command(values)
        self._kept = self.envs.command[0]

    def hold(self, stick: Array | tuple[float, float], turn: float = 0.0) -> None:
        """A stick is held: (2,) along the world's x and y, and one to turn about the vertical, each at most 1 long.

        Once it is let go, the robot is told to stand; one that was told a place goes on to it.
        """
        stick = np.asarray(stick, np.float64)
        self._stick, self._turn = stick / max(float(np.hypot(*stick)), 1.0), min(max(turn, -1.0), 1.0)
        self._held = True

    def _steer(self) -> None:
        """Tell the robot what the stick says, which depends on where the robot is and how it is turned."""
        told = self.envs.world.told
        seconds = self._steered_every * self.envs.dt
        values = by_stick(
            told.command, told.values[:, 0], self._stick, self._turn, self.envs.world.robots, told.limits, seconds
        )
        if not np.allclose(values, told.values[:, 0], rtol=0.0, atol=1e-3):
            self.tell(values)
        self._held = bool(self._stick.any() or self._turn)

    # -- What happens to it -------------------------------------------------------------------------------------------

    def push(self, along: Array | tuple[float, float]) -> None:
        """Push the robot's body along (2,) x and y of the world, as if somebody bumped into it."""
        sims = self.envs.simulations
        way = np.asarray(along, np.float64)
        self.pushed = way / max(float(np.hypot(*way)), 1e-9)
        spin = sims.addresses.base_qvel
        sims.qvel[0, spin : spin + 2] += PUSH * self.pushed
        self.pushes += 1
        self.said = "pushed"

    def reset(self) -> None:
        """Begin anew on the same ground."""
        self._begin(options={"terrain_id": self.terrain_id})
        self.said = "from the start"

    def next_ground(self) -> None:
        """Begin anew on the next ground of the pool."""
        if (count := self.envs.simulations.num_terrains) == 1:
            self.reset()
            self.said = "flat ground is all there is: --terrain perlin, stairs, ... has more"
            return
        self._begin(options={"terrain_id": (self.terrain_id + 1) % count})
        self.said = self.ground

    def slower(self) -> None:
        """Go on more slowly, and after the slowest as fast as life."""
        slower = [speed for speed in SPEEDS if speed < self.speed - 1e-9]
        self.speed = slower[0] if slower else SPEEDS[0]
        self.said = "real time" if self.speed == 1.0 else f"slow motion, {self.speed:g} x"

    @property
    def terrain_id(self) -> int:
        """Index of the ground in the pool."""
        return int(self.envs.simulations.terrain_ids[0])

    @property
    def ground(self) -> str:
        """The ground in words."""
        pool, k = self.envs.simulations.ground, self.terrain_id
        if pool.relief is None:
            return "flat"
        return f"{pool.kinds[pool.kind_ids[k]]}, difficulty {pool.difficulties[k]:.2g}, {k + 1} of {len(pool)}"

    @property
    def lies(self) -> bool:
        """Whether it has fallen."""
        return self._lying > 0

    def step(self) -> None:
        """One step of the environment."""
        if self._held and self._steps % self._steered_every == 0:
            self._steer()
        actions = self._actor(self._obs, self._began)
        self._began = np.zeros(1, bool)
        if self._lying:
            actions = np.zeros_like(actions)
        self._obs, _, terminated, truncated, infos = self.envs.advance(actions)
        self._steps += 1
        if self._lying:
            self._lying -= 1
            if not self._lying or infos["out_of_bounds"][0] or infos["diverged"][0]:
                self._again("stands again")
        elif terminated[0]:
            self._lying, self.falls = max(round(LYING / self.envs.dt), 1), self.falls + 1
            self.said = "fell" if infos["tilt_deg"][0] > self.envs.config.tilt_limit_deg else "an ending was reached"
        elif truncated[0]:
            self._again("left the ground: back to where it begins" if infos["out_of_bounds"][0] else "begins again")

    def now(self) -> Now:
        """What there is to tell of the robot now."""
        envs = self.envs
        told, robots = envs.world.told, envs.world.robots
        direction, turn, place = told.direction[:, 0].copy(), 0.0, None
        if "velocity_command" in told.command.fields:
            ahead, left, turn = told.values[:, 0]
            c, s = robots.heading[:, 0]
            direction = np.array([c * ahead - s * left, s * ahead + c * left])
        if "target" in told.command.fields:
            place = told.target[:, 0].copy()
        return Now(
            seconds=self._steps * envs.dt,
            direction=direction,
            turn=float(turn),
            place=place,
            velocity=robots.velocity[:2, 0].copy(),
            tilt_deg=float(np.degrees(np.arccos(np.clip(robots.rotation[2, 2, 0], -1.0, 1.0)))),
            torques=envs.simulations.torques[0],
        )

    # -- Episodes -----------------------------------------------------------------------------------------------------

    def _again(self, said: str) -> None:
        self.reset()
        self.said = said

    def _begin(self, **how: Any) -> None:
        """Begin an episode, in which the robot is told what it was told before."""
        self._obs, _ = self.envs.reset(**how)
        self._began, self._lying, self._steps = np.ones(1, bool), 0, 0
        self.episode += 1
        if self._kept is not None:
            command = self.envs.world.told.command
            self.tell(standing(command, self._place()) if "target" in command.fields else self._kept)

    def _place(self) -> Array:
        return self.envs.world.robots.position[:2, 0]
