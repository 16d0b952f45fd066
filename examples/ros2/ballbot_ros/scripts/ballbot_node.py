#!/usr/bin/env python3
"""A ROS 2 node that drives a robot with an exported policy; topics and services stand in docs/deployment.md.

    ros2 run ballbot_ros ballbot_node.py --ros-args -p policy:=policy.onnx -p robot:=reference -p command:=velocity

It begins disarmed, with zero torques.  The service ~/arm arms it if all that the policy needs has just come, and
disarms it; so does whatever keeps the controller from driving until it is reset: a fall, or sensors lost for 0.1 s.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import numpy as np

try:
    import rclpy
    from geometry_msgs.msg import PoseStamped, Twist, Vector3
    from nav_msgs.msg import Odometry, Path
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image, Imu, JointState
    from std_msgs.msg import Float64MultiArray, String
    from std_srvs.srv import SetBool
except ImportError as missing:
    sys.exit(f"error: {missing.name} is missing: source /opt/ros/DISTRO/setup.bash first")
try:
    from runtime import Controller, Sensors, rotation_matrix  # the one file, beside this one
except ImportError:
    try:
        from ballbot.deployment.runtime import Controller, Sensors, rotation_matrix
    except ImportError as missing:
        sys.exit(f"error: {missing.name} is missing: pip install onnxruntime, and copy runtime.py beside this file")

COMMANDS = {"goal": ("direction", Vector3), "velocity": ("cmd_vel", Twist), "point": ("goal_pose", PoseStamped),
            "path": ("path", Path)}  # fmt: skip
"""Kind of command -> topic that tells it, and type."""
PIXELS = {"32FC1": (np.float32, 1.0), "16UC1": (np.uint16, 0.001)}
"""Encoding of depth images -> type of a pixel, and m of one."""
NO_DIRECTION = "a direction of length 0 is none: the last one stays, disarm to stop"


class BallbotNode(Node):
    """Sensors in, torques out, at the policy's rate."""

    def __init__(self) -> None:
        super().__init__("ballbot")
        told = {name: self.declare_parameter(name, "").value for name in ("policy", "robot", "command")}
        self.joints = list(self.declare_parameter("joints", ["wheel_0", "wheel_1", "wheel_2"]).value)
        self.sensor_timeout = float(self.declare_parameter("sensor_timeout", 0.02).value)
        self.command_timeout = float(self.declare_parameter("command_timeout", 0.5).value)
        action = str(self.declare_parameter("action", "torque").value)
        robot, command = told["robot"] or None, told["command"] or None
        self.controller = Controller(told["policy"], robot=robot, command=command, action=action)
        if len(self.joints) != self.controller.wheels:
            raise ValueError(f"joints names {len(self.joints)} wheels, the policy drives {self.controller.wheels}")
        self.armed, self.idle, self.status = False, "disarmed", ""  # idle: why it is not armed
        self.latest: dict[str, tuple[float, Any]] = {}
        camera = self.controller.contract["camera"]
        self.shape = tuple(camera["shape"]) if camera else (0, 0, 0)
        self.images: dict[int, tuple[float, Any]] = {}
        self.last_seen: tuple[float, Any] | None = None

        for topic, kind, take in (("imu", Imu, self.on_imu), ("joint_states", JointState, self.on_joints),
                                  ("odom", Odometry, self.on_odom)):  # fmt: skip
            self.create_subscription(kind, topic, take, qos_profile_sensor_data)
        topic, kind = COMMANDS[self.controller.kind]
        self.create_subscription(kind, topic, self.on_command, 1)
        for i in range(self.shape[0]):
            self.create_subscription(
                Image, f"camera_{i}/depth", lambda message, i=i: self.on_image(i, message), qos_profile_sensor_data
            )
        self.torques = self.create_publisher(Float64MultiArray, "torques", 1)
        self.statuses = self.create_publisher(String, "~/status", 1)
        self.create_service(SetBool, "~/arm", self.on_arm)
        self.create_timer(self.controller.contract["period"], self.step)

    def seconds(self) -> float:
        """Now, s, by a clock that does not jump, as ROS's may."""
        return time.monotonic()

    def keep(self, name: str, value: Any) -> None:
        """A value that has just come."""
        self.latest[name] = (self.seconds(), value)

    def fresh(self, name: str, timeout: float | None = None) -> Any:
        """The latest value, or None if it is too old."""
        since, value = self.latest.get(name, (-np.inf, None))
        return value if self.seconds() - since <= (self.sensor_timeout if timeout is None else timeout) else None

    def on_imu(self, message: Imu) -> None:
        """Orientation, base to world, and angular velocity along the base's axes."""
        q, w = message.orientation, message.angular_velocity
        self.keep("orientation", np.array([q.w, q.x, q.y, q.z]))
        self.keep("angular_velocity", np.array([w.x, w.y, w.z]))

    def on_joints(self, message: JointState) -> None:
        """Speeds of the wheels; a message without one of them tells nothing."""
        speeds = dict(reversed([*zip(message.name, message.velocity, strict=False)]))  # the first of one name
        if all(name in speeds for name in self.joints):
            self.keep("wheel_speeds", np.array([speeds[name] for name in self.joints]))

    def on_odom(self, message: Odometry) -> None:
        """Position in the world, velocity along the base's axes (REP 105)."""
        p, v = message.pose.pose.position, message.twist.twist.linear
        self.keep("position", np.array([p.x, p.y]))
        self.keep("body_velocity", np.array([v.x, v.y, v.z]))

    def on_command(self, message: Any) -> None:
        """A direction, a velocity, a place or a path."""
        kind = self.controller.kind
        if kind == "goal":
            direction = np.array([message.x, message.y])
            length = float(np.hypot(*direction))
            if length < 1e-9:
                self.get_logger().error(NO_DIRECTION, throttle_duration_sec=5.0)
                return
            self.keep("goal", direction / length)
        elif kind == "velocity":
            self.keep("command", np.array([message.linear.x, message.linear.y, message.angular.z]))
        else:
            places = [pose.pose.position for pose in ([message] if kind == "point" else message.poses)]
            self.keep("command", np.array([[place.x, place.y] for place in places]).reshape(-1))

    def on_image(self, camera: int, message: Image) -> None:
        """Depth; once all cameras' have come, the controller sees them, as old as the oldest."""
        _, height, width = self.shape
        itemsize = np.dtype(PIXELS.get(message.encoding, (np.float32,))[0]).itemsize
        if (
            message.encoding not in PIXELS or (message.height, message.width) != (height, width)
            or message.step < width * itemsize or len(message.data) < message.step * height
        ):  # fmt: skip
            self.get_logger().error(
                f"camera_{camera} sends {message.width} x {message.height} {message.encoding}, the policy takes "
                f"{width} x {height} 32FC1 (m) or 16UC1 (mm)", throttle_duration_sec=5.0,
            )  # fmt: skip
            return
        pixel, unit = PIXELS[message.encoding]
        order = np.dtype(pixel).newbyteorder(">" if message.is_bigendian else "<")
        rows = np.frombuffer(bytes(message.data), np.uint8, height * message.step).reshape(height, message.step)
        depth = rows[:, : width * itemsize].copy().view(order) * np.float32(unit)
        if pixel is np.uint16:
            depth[depth == 0] = np.nan  # no echo
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        age = max(self.get_clock().now().nanoseconds * 1e-9 - stamp, 0.0)
        self.images[camera] = (self.seconds() - age, depth)
        if len(self.images) == self.shape[0]:
            self.last_seen = (
                min(taken for taken, _ in self.images.values()),
                np.stack([self.images[i][1] for i in range(self.shape[0])]),
            )
            self.images.clear()
            self.see()

    def see(self) -> None:
        """Show the controller the last images."""
        if self.last_seen is not None:
            self.controller.see(self.last_seen[1], self.seconds() - self.last_seen[0])

    def sensors(self) -> Sensors:
        """What has come in time; nothing where it has not, which the controller counts as missing."""
        orientation, along = self.fresh("orientation"), self.fresh("body_velocity")
        command = self.fresh("command", np.inf)  # a place is told once
        if self.controller.kind == "velocity":
            command = self.fresh("command", self.command_timeout)
            command = np.zeros(3) if command is None else command  # whoever steered is gone: stand
        return Sensors(
            orientation,
            self.fresh("angular_velocity"),
            None if along is None or orientation is None else rotation_matrix(orientation) @ along,
            self.fresh("wheel_speeds"),
            self.fresh("goal", np.inf),
            command,
            self.fresh("position"),
        )

    def on_arm(self, request: Any, response: Any) -> Any:
        """Arm, if all that the policy needs is there; or disarm."""
        self.armed, self.idle, response.success, response.message = False, "disarmed", True, "disarmed"
        if request.data:
            found = self.sensors()
            missing = [name for name in self.controller.needs if getattr(found, name) is None]
            if self.shape[0] and self.last_seen is None:
                missing.append("depth")
            if missing:
                response.success, response.message = False, f"not armed: no {', '.join(missing)}"
            else:
                self.controller.reset()
                self.see()
                self.armed, response.message = True, "armed"
        return response

    def step(self) -> None:
        """One step of the policy."""
        torques, status = np.zeros(self.controller.wheels), self.idle
        if self.armed:
            torques = self.controller.act(self.sensors())
            status = self.controller.status
            if self.controller.stopped:
                self.armed, self.idle = False, status
        self.torques.publish(Float64MultiArray(data=torques.tolist()))
        if status != self.status:
            self.status = status
            self.statuses.publish(String(data=status))


def main() -> None:
    """Spin until Ctrl-C or SIGTERM; the last message is zero torques, whatever ends it."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # so that the last message still goes out
    try:
        node = BallbotNode()
    except ValueError as error:
        sys.exit(f"error: {error}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.torques.publish(Float64MultiArray(data=[0.0] * node.controller.wheels))


if __name__ == "__main__":
    main()
