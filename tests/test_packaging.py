"""What is installed is complete, typed, light to import, and says the same everywhere."""

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.resources import files
from pathlib import Path

import mujoco
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ballbot

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    """Exact versions in constraints.txt by canonical name."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    for requirement in requirements:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version, f"{requirement} is no exact pin"
    return {canonicalize_name(r.name): next(iter(r.specifier)).version for r in requirements}


def test_installed_metadata_is_that_of_the_source() -> None:
    try:
        installed = version("ballbot")
    except PackageNotFoundError:
        pytest.skip("runs from a checkout that is not installed")
    assert installed == ballbot.__version__
    described = metadata("ballbot")
    assert described["Requires-Python"] == PROJECT["requires-python"]
    assert set(described.get_all("Provides-Extra") or []) == {
        "plots",
        "video",
        "export",
        "wandb",
        "docs",
        "notebook",
        "dev",
    }


def test_robot_compiles_from_the_installed_resources() -> None:
    model = mujoco.MjModel.from_xml_string(files("ballbot.assets").joinpath("ballbot.xml").read_text())
    assert model.nu == 3


@pytest.mark.parametrize("package", ["ballbot", "mujoco_patch"])
def test_packages_declare_their_types(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", ["contact_fix.c", "contact_frame.diff", "README.md"])
def test_contact_fix_comes_with_its_sources_and_explanation(name: str) -> None:
    assert files("mujoco_patch").joinpath(name).is_file()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("ballbot", ["torch", "mujoco", "ballbot.envs", "ballbot.ppo"]),
        ("ballbot.envs", ["torch", "ballbot.ppo"]),
        ("ballbot.ppo", ["mujoco", "ballbot.envs", "mujoco_patch", "torch._dynamo"]),
        ("mujoco_patch", ["torch", "ballbot", "gymnasium"]),
    ],
)
def test_world_and_learning_are_imported_apart(module: str, unwanted: list[str]) -> None:
    code = f"import sys, {module}; print(*(set({unwanted}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_pins_lie_in_the_declared_ranges_and_cover_every_dependency() -> None:
    exact = pins()
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["dev"], *extras["docs"], *extras["notebook"]]:
        requirement = Requirement(line)
        pin = exact[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{pin} does not satisfy {line}"


def test_every_dependency_states_a_lower_bound() -> None:
    for line in PROJECT["dependencies"]:
        assert [s.operator for s in Requirement(line).specifier] == [">="], line
