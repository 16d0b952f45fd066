"""Robots driven by hand: in MuJoCo's viewer, or in a browser (``server``), by keys, by touch and by a gamepad."""

from ballbot.driving.drive import Drive

__all__ = ["Drive"]
