# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The ROS 2 nodes of the example, in Python and C++, do the same, against stubs of ROS's API."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from compiled import build_with_onnxruntime
from policies import save_policy

from ballbot.deployment.export import export_policy
from ballbot.deployment.shipped import find_policy
from ballbot.evaluation import env_options
from ballbot.ppo import load_policy

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "examples" / "ros2" / "ballbot_ros"
MODULES = {
    "geometry_msgs.msg": ("PoseStamped", "Twist", "Vector3"), "nav_msgs.msg": ("Odometry", "Path"),
    "sensor_msgs.msg": ("Image", "Imu", "JointState"), "std_msgs.msg": ("Float64MultiArray", "String"),
    "std_srvs.srv": ("SetBool",), "rclpy.node": ("Node",), "rclpy.signals": ("SignalHandlerOptions",),
    "rclpy.qos": ("qos_profile_sensor_data",),
}  # fmt: skip
SCRIPT = """
step
arm 1
time 1
imu 1 0.01 0 0 0.1 0.2 0.3
joint_states 3 9 1 2
odom 0 0 0.1 0 0
{command}
{images}
arm 1
step
jump 1000
step
time 1.015
step
imu 1 0.02 0 0 0.1 0.2 0.3
joint_states 3 9 1 2
odom 0 0 0.1 0 0
time 1.03
step
time 1.04
step
time 1.6
imu 1 0 0 0 0.1 0.2 0.3
joint_states 1 9 1 1
odom 0 0 0 0 0
step
arm 0
step
arm 1
step
imu 0.7071 0.7071 0 0 0.1 0.2 0.3
step
imu 1 0 0 0 0.1 0.2 0.3
step
arm 1
step
"""


def vector(*numbers):
    return SimpleNamespace(**dict(zip("xyzw", numbers, strict=False)))


class Stub:
    """Base of the node, and what a middleware would hold."""

    told: dict[str, str]  # its parameters
    said: list[str]
    now: float

    def __init__(self, name: str) -> None:
        Stub.now, self.jumped = 0.0, 0.0
        self.topics: dict[str, Any] = {}

    def declare_parameter(self, name, value):
        return SimpleNamespace(value=self.told.get(name, value))

    def create_subscription(self, kind, topic, take, depth):
        self.topics[topic] = take

    def create_publisher(self, kind, topic, depth):
        def publish(message):
            text = message.data if topic == "~/status" else " ".join(map(str, message.data))
            self.said.append(f"{'status' if topic == '~/status' else 'torques'} {text}")

        return SimpleNamespace(publish=publish)

    def create_service(self, kind, name, call):
        self.arm = call

    def create_timer(self, period, call):
        self.timer = call

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=round((self.now + self.jumped) * 1e9)))

    def get_logger(self):
        return SimpleNamespace(error=lambda text, **_: self.said.append(f"error {text}"))

    def hear(self, line: str) -> None:
        """What the C++ stub reads from standard input."""
        word, *rest = line.split()
        if word == "image":
            topic, width, height, depth = rest[0], *map(int, rest[1:])
            now = self.now + self.jumped
            stamp = SimpleNamespace(sec=int(now), nanosec=int((now - int(now)) * 1e9))
            data = np.full((height, width), depth, np.uint16).tobytes()
            data = data[:-1] if depth == 1 else data  # one that was cut off
            self.topics[topic](
                SimpleNamespace(
                    header=SimpleNamespace(stamp=stamp), width=width, height=height, encoding="16UC1", step=2 * width,
                    is_bigendian=0, data=data,
                )
            )  # fmt: skip
            return
        x = [float(number) for number in rest]
        if word == "time":
            Stub.now = x[0]
        elif word == "jump":
            self.jumped = x[0]
        elif word == "imu":
            self.topics[word](SimpleNamespace(orientation=vector(*x[1:4], x[0]), angular_velocity=vector(*x[4:])))
        elif word == "joint_states":
            self.topics[word](SimpleNamespace(name=["wheel_2", "arm", "wheel_0", "wheel_1"], velocity=x))
        elif word == "odom":
            pose = SimpleNamespace(pose=SimpleNamespace(position=vector(*x[:2])))
            self.topics[word](
                SimpleNamespace(pose=pose, twist=SimpleNamespace(twist=SimpleNamespace(linear=vector(*x[2:]))))
            )
        elif word == "cmd_vel":
            self.topics[word](SimpleNamespace(linear=vector(*x[:2]), angular=vector(0, 0, x[2])))
        elif word == "direction":
            self.topics[word](vector(*x))
        elif word == "arm":
            found = self.arm(SimpleNamespace(data=bool(x[0])), SimpleNamespace())
            self.said.append(f"arm {int(found.success)} {found.message}")
        elif word == "step":
            self.timer()


@pytest.fixture
def python_node(monkeypatch):
    """The module of the Python node, over stubs."""
    for name, parts in MODULES.items():
        module = ModuleType(name)
        for part in parts:
            setattr(module, part, Stub if part == "Node" else lambda **fields: SimpleNamespace(**fields))
        monkeypatch.setitem(sys.modules, name.split(".")[0], ModuleType(name.split(".")[0]))
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("ballbot_node", PACKAGE / "scripts" / "ballbot_node.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: Stub.now))
    return module


@pytest.fixture(scope="module")
def cpp_node(tmp_path_factory):
    """The C++ node, compiled against stubs."""
    folder = tmp_path_factory.mktemp("ros2")
    source = PACKAGE / "src" / "ballbot_node.cpp"
    for line in source.read_text().splitlines():
        if line.startswith("#include <") and "/" in line:
            header = folder / line.split("<")[1].rstrip(">")
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text('#include "ros2_stubs.hpp"\n')
    return build_with_onnxruntime(source, folder / "node", "-O0", f"-I{folder}", f"-I{HERE}")


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Files of a policy that sees and is told a goal, and one that is told a velocity and estimates its own."""
    folder = tmp_path_factory.mktemp("policies")
    road = load_policy(find_policy("road"))
    task: dict[str, Any] = {"command": "velocity", "sensing.velocity": "estimated"}
    blind = load_policy(save_policy(folder / "blind.pt", 18, gain=30.0, **task))
    for name, policy in (("goal", road), ("velocity", blind)):
        export_policy(policy, folder / f"{name}.onnx", env_options(policy).get("encoder"))
    return folder


@pytest.mark.parametrize("kind", ["goal", "velocity"])
def test_nodes_arm_drive_stand_when_nobody_steers_and_stop(policies, python_node, cpp_node, kind):
    images = "\n".join(f"image camera_{i}/depth 64 64 300" for i in range(3)) + "".join(
        f"\nimage camera_0/depth {bad}" for bad in ("32 64 300", "64 64 1")
    )
    sends = {"goal": ("direction 0 2\ndirection 0 0", images), "velocity": ("cmd_vel 0.2 0 0.1", "")}[kind]
    script = SCRIPT.format(command=sends[0], images=sends[1])
    told = {"policy": str(policies / f"{kind}.onnx"), "robot": "reference", "command": kind}
    Stub.told, Stub.said = told, []
    node = python_node.BallbotNode()
    for line in script.split("\n"):
        if line:
            node.hear(line)
    arguments = [word for pair in told.items() for word in pair]
    done = subprocess.run([cpp_node, *arguments], input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    theirs = done.stdout.splitlines()
    theirs.pop()  # the last message at the end: zeros
    assert [line for line in theirs if line[:7] != "torques"] == [line for line in Stub.said if line[:7] != "torques"]
    numbers = [
        [[float(x) for x in line.split()[1:]] for line in said if line[:7] == "torques"] for said in (theirs, Stub.said)
    ]
    np.testing.assert_allclose(numbers[0], numbers[1], atol=1e-4)  # the age of images is read from a clock
    #                                                          disarmed          fallen, and until armed again
    expected = [False, True, True, True, True, True, True, False, True, False, False, True]
    assert [any(torques) for torques in numbers[0]] == expected


def test_nodes_refuse_policies_of_others(policies, python_node, cpp_node):
    for told, words in (
        ({"policy": "none.onnx"}, "none.onnx does not exist"),
        (
            {"policy": str(policies / "velocity.onnx"), "robot": "mini"},
            "was trained for the robot 'reference', this program",
        ),
        (
            {"policy": str(policies / "velocity.onnx"), "command": "point"},
            "is told a velocity, this program gives a point",
        ),
    ):
        Stub.told, Stub.said = told, []
        with pytest.raises(ValueError, match=words):
            python_node.BallbotNode()
        arguments = [word for pair in told.items() for word in pair]
        done = subprocess.run([cpp_node, *arguments], input="", capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and words in done.stderr


def test_the_python_node_says_when_ros_is_missing():
    done = subprocess.run(
        [sys.executable, PACKAGE / "scripts" / "ballbot_node.py"], capture_output=True, text=True, timeout=60
    )
    if importlib.util.find_spec("rclpy") is not None:
        pytest.skip("ROS is here")
    assert done.returncode == 1 and done.stderr == "error: rclpy is missing: source /opt/ros/DISTRO/setup.bash first\n"
