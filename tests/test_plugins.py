# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Plugins: what a user's file adds is an option, recorded, and needed again; the docs' examples are such a file."""

import json
import py_compile
import re
import subprocess
import sys
from pathlib import Path

import pytest
from inprocess import call, own_registries

from ballbot import plugins
from ballbot.envs import WorldConfig
from ballbot.evaluation import env_options
from ballbot.plugins import PluginError
from ballbot.ppo import load_policy

ROOT = Path(__file__).parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
SMALL = [
    "--no-cameras", "--num-terrains=2", "--num-envs=2", "--num-steps=16", "--minibatch-size=32", "--hidden-size=8",
    "--num-threads=1", "--max-episode-steps=100", "--eval-episodes=2", "--action-repeat=1", "--total-timesteps=64",
]  # fmt: skip
REWARD = "from ballbot.envs import REWARDS\nREWARDS['{name}'] = lambda step: -(step.robots.gyro**2).sum(axis=0)\n"
PARAMETERS = """
from dataclasses import dataclass
from ballbot.envs import REWARDS
@dataclass(frozen=True)
class Calm:
    {field}
    def __call__(self, step):
        return -self.k * step.tilt
REWARDS['{name}'] = Calm
"""


@pytest.fixture(autouse=True)
def registries():
    """As they were, after each test."""
    with own_registries():
        yield


def test_what_the_docs_add_is_an_option_recorded_and_needed_again(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("\n".join(EXAMPLES))
    plugin = ["--plugin", "mine.py"]
    options = [
        "--terrain", "bumps:0-1", "--ground.height", "0.01", "--rewards.calm", "0.5", "--command", "sideways",
        "--motion.max-speed", "0.2", "--extra-fields", "height", "--curriculum", "--run-name", "own",
    ]  # fmt: skip
    done = call("ppo_ballbot.py", *SMALL, *plugin, *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "own"
    config = json.loads((run / "config.json").read_text())
    assert config["env"]["terrain"] == "bumps:0-1" and config["env"]["ground"] == {"height": 0.01}
    assert config["env"]["rewards"]["calm"] == 0.5 and config["env"]["extra_fields"] == ["height"]
    assert list(config["plugins"]) == ["mine.py"] and len(config["plugins"]["mine.py"]) == 64
    assert (run / "plugins" / "mine.py").read_bytes() == mine.read_bytes()
    header = (run / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"reward/calm", "reward/velocity", "episode/level_bumps"} <= set(header)

    resume = ["--resume", "runs/own", "--total-timesteps", "96"]
    short = ["--episodes", "2", "--horizon", "40", "--num-terrains", "2", "--num-threads", "1"]
    programs = [
        ("ppo_ballbot.py", resume),
        ("evaluate.py", ["runs/own", *short, "--ground.height", "0.02", "--terrain", "bumps", "--json", "a.json"]),
    ]
    missing = "runs/own.* was made with the plugin mine.py, which is not loaded: add --plugin mine.py"
    for script, others in programs:
        done = call(script, *others[:1] if script == "evaluate.py" else others, folder=tmp_path)
        assert done.returncode == 2 and re.search(missing, done.stderr), done.stderr
        done = call(script, *plugin, *others, folder=tmp_path)  # which takes one file: others may follow
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["options"]["ground"] == {"height": 0.02}
    for script, others in (("export_policy.py", ["runs/own"]), ("watch.py", ["runs/own", "--record", "a.gif"])):
        done = call(script, *others, folder=tmp_path)
        assert done.returncode == 2 and re.search(missing, done.stderr), done.stderr
    policy = load_policy(run)
    with pytest.raises(PluginError, match=r"not loaded: .*ballbot\.plugins\.load_plugin\('mine\.py'\)"):
        env_options(policy)
    with own_registries():
        plugins.load_plugin(mine)
        assert env_options(policy)["ground"] == {"height": 0.01}

    mine.write_text("\n".join(EXAMPLES) + "\n# another thought\n")
    for script, others in (("ppo_ballbot.py", [*resume[:-1], "128"]), ("evaluate.py", ["runs/own"])):
        done = call(script, *plugin, *others, folder=tmp_path)
        assert done.returncode == 2 and "mine.py is not what" in done.stderr and "keeps a copy" in done.stderr


def test_a_plugin_serves_every_program_that_shows_ground(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("\n".join(EXAMPLES))
    options = ["--plugin", "mine.py", "--terrain", "bumps:0.5", "--ground.height", "0.01"]
    small = ["--num-envs", "1", "--num-terrains", "2", "--interval", "3", "--num-threads", "1", "--num-images", "1"]
    done = call("collect_depth.py", *small, *options, "--out", "seen", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "seen" / "card.json").read_text())
    assert card["provenance"]["terrain"]["kind"] == "bumps:0.5"
    assert card["provenance"]["terrain"]["ground"] == {"height": 0.01}
    for script in ("collect_depth.py", "show_cameras.py", "evaluate.py", "watch.py"):
        done = call(script, "--plugin", "none.py", folder=tmp_path)
        assert done.returncode == 2 and "plugin none.py does not exist" in done.stderr
        done = call(script, *options[:-1], "-3", folder=tmp_path)
        assert done.returncode == 2 and "height must be a number from 0 to 1, got -3" in done.stderr, done.stderr
        done = call(script, "--ground.height", "0.1", folder=tmp_path)
        assert done.returncode == 2 and "--ground.height is an option of a kind: add --terrain" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 / 0", r"raised ZeroDivisionError: division by zero \(line 1\)"),
        ("x = \n", r"raised SyntaxError.*\(line 1\)"),
        ("import nothing_of_the_kind", "raised ModuleNotFoundError"),
        ("x = 1", "registers nothing: write into TERRAINS"),
        (REWARD.format(name="upright"), r"replaces REWARDS\['upright'\]: register it by another name"),
        (REWARD.format(name="so calm"), r"REWARDS\['so calm'\]: a name is of letters"),
        ("from ballbot.envs import REWARDS\nREWARDS['calm'] = 3", r"REWARDS\['calm'\], which is no function"),
        ("from ballbot.envs import TERRAINS\nTERRAINS['x'] = dict", "is no dataclass with a method make"),
        ("from ballbot.envs import COMMANDS\nCOMMANDS['x'] = int", "is no dataclass with draw"),
        ("from ballbot.envs import FIELDS\nFIELDS['x'] = 1", "is no ballbot.envs.Field"),
        ("from ballbot.envs import REWARDS\ndel REWARDS['tilt']", r"replaces REWARDS\['tilt'\]"),
        ("raise SystemExit(3)", "raised SystemExit"),
        (REWARD.format(name="lambda"), r"REWARDS\['lambda'\]: .* no word of Python's own"),
        (PARAMETERS.format(name="calm", field="k: float"), "the reward 'calm' needs a number as the default of .* 'k'"),
        (PARAMETERS.format(name="tracking", field="x: float = 1"), r"replaces REWARDS\['tracking'\]"),
        (
            REWARD.format(name="calm_k") + PARAMETERS.format(name="calm", field="k: float = 1"),
            "the parameter 'k' of the reward 'calm' is named as 'calm_k'",
        ),
        (
            "from ballbot.envs import ENDINGS\nENDINGS['success'] = lambda step, limit: step.fallen",
            "as something in the",
        ),
        (
            "from ballbot.envs import FIELDS, Field\nFIELDS['image_0'] = Field(1, lambda step: step.robots.gyro[:1])",
            "named as the cameras' fields are",
        ),
    ],
)
def test_a_bad_plugin_is_refused_and_leaves_nothing_behind(tmp_path, content, message):
    before = {name: dict(entries) for name, entries in plugins.REGISTRIES.items()}
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(PluginError, match=message):
        plugins.load_plugin(tmp_path / "bad.py")
    assert before == plugins.REGISTRIES
    assert "bad.py" not in plugins.loaded() and "ballbot_plugin_bad" not in sys.modules


def test_what_is_hashed_is_what_runs(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(REWARD.format(name="calm"))
    py_compile.compile(str(mine), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    mine.write_text(REWARD.format(name="pace"))  # a stale cache would still register the other
    assert plugins.load_plugin(mine).added == ("REWARDS['pace']",)


def test_files_that_are_no_plugins_are_named(tmp_path):
    with pytest.raises(PluginError, match="does not exist"):
        plugins.load_plugin(tmp_path / "none.py")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(PluginError, match="no Python file"):
        plugins.load_plugin(tmp_path / "x.txt")
    (tmp_path / "big.py").write_text("#" * (plugins.MAX_BYTES + 1))
    with pytest.raises(PluginError, match="larger than"):
        plugins.load_plugin(tmp_path / "big.py")


def test_a_file_is_loaded_once_and_another_of_its_name_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "mine.py").write_text(REWARD.format(name="calm"))
    (tmp_path / "a" / "mine.py").write_text(REWARD.format(name="calmer"))
    first = plugins.load_plugin(tmp_path / "mine.py")
    assert plugins.load_plugin(tmp_path / "mine.py") is first and first.added == ("REWARDS['calm']",)
    with pytest.raises(PluginError, match=r"another plugin mine\.py was loaded already"):
        plugins.load_plugin(tmp_path / "a" / "mine.py")


def test_installed_packages_bring_theirs_by_an_entry_point(tmp_path):
    site = tmp_path / "site"
    (site / "bouncy-1.0.dist-info").mkdir(parents=True)
    (site / "bouncy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: bouncy\nVersion: 1.0\n")
    (site / "bouncy-1.0.dist-info" / "entry_points.txt").write_text("[ballbot.plugins]\nbouncy = bouncy\n")
    (site / "bouncy.py").write_text(REWARD.format(name="bounce"))
    code = (
        f"import sys; sys.path.append({str(site)!r}); from ballbot import plugins; from ballbot.envs import REWARDS; "
        "print(plugins.load_installed()[0].name, 'bounce' in REWARDS, len(plugins.loaded()['bouncy']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.split() == ["bouncy", "True", "64"], done.stderr


def test_an_installed_plugins_hash_is_of_all_its_files(tmp_path, monkeypatch):
    package = tmp_path / "springy"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text("from springy.parts import bounce")
    (package / "parts" / "__init__.py").write_text("")
    (package / "parts" / "bounce.py").write_text(REWARD.format(name="bounce"))
    monkeypatch.syspath_prepend(tmp_path)
    before = plugins._source_digest("springy")
    assert before == plugins._source_digest("springy") and "springy" not in sys.modules
    (package / "parts" / "bounce.py").write_text(REWARD.format(name="bounces"))
    assert plugins._source_digest("springy") != before


@pytest.mark.parametrize("recorded", [3, {"mine.py": 3}, ["mine.py"], None])
def test_a_damaged_record_is_named(recorded):
    with pytest.raises(PluginError, match=r"runs/x is damaged: its plugins are"):
        plugins.require(recorded, "runs/x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('AXES["mine"] = Axis("x", 1.0, Range(0, 2), (), print, needs=("hat",))', "that needs some of roller_dofs"),
        ('RANDOMIZED["mine"] = {"bodymass": (1, 1)}', "did you mean 'body_mass'"),
        ('SENSORS["mine"] = {"gyro_nois": 1}', "did you mean 'gyro_noise'"),
        ('SENSORS["mine"] = 3', "is no dict of values by name"),
    ],
)
def test_axes_and_sensors_of_ones_own_are_checked(tmp_path, content, message):
    imports = (
        "from ballbot.envs.randomize import AXES, RANDOMIZED, Axis\n"
        "from ballbot.envs.sensors import SENSORS\nfrom ballbot.settings import Range\n"
    )
    (tmp_path / "mine.py").write_text(imports + content)
    with pytest.raises(PluginError, match=message):
        plugins.load_plugin(tmp_path / "mine.py")
    (tmp_path / "good.py").write_text(imports + 'SENSORS["drunk"] = {"tilt_noise": 5.0}')
    with own_registries():
        plugins.load_plugin(tmp_path / "good.py")
        assert WorldConfig(sensors="drunk").sensing == {"tilt_noise": 5.0}
