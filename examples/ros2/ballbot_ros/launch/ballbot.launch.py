"""Start the node.

ros2 launch ballbot_ros ballbot.launch.py policy:=/path/policy.onnx robot:=reference command:=velocity [python:=true]
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PARAMETERS = {"policy": "", "robot": "", "command": ""}


def generate_launch_description() -> LaunchDescription:
    """One node, in C++ or in Python, with the same topics."""
    values = {name: LaunchConfiguration(name) for name in PARAMETERS}
    shared = {"package": "ballbot_ros", "name": "ballbot", "parameters": [values], "output": "screen"}
    python = LaunchConfiguration("python")
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value) for name, value in PARAMETERS.items()),
            DeclareLaunchArgument("python", default_value="false"),
            Node(executable="ballbot_node", condition=UnlessCondition(python), **shared),
            Node(executable="ballbot_node.py", condition=IfCondition(python), **shared),
        ]
    )
