# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""Who installed a wheel has the programs of experiments/ as commands; help is grouped, errors are one line."""

import dataclasses
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro
from inprocess import call

from ballbot import commands
from ballbot.errors import SettingsError
from ballbot.parsing import parse

ROOT = Path(__file__).parents[1]
PROGRAMS = {path.stem for path in (ROOT / "experiments").glob("*.py")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder into which a wheel of this checkout was unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    leave = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in ("ballbot", "mujoco_patch", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=leave)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = os.environ | {"CC": "/bin/false"}  # what is compiled is not looked at here
    subprocess.run([*command, "-w", str(folder), str(source)], env=environment, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def ballbot(site, *options, **more):
    """``python -m ballbot`` of an unpacked wheel, outside the checkout."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "ballbot", *options]
    return subprocess.run(command, cwd=site.parent, env=environment, capture_output=True, text=True, **more)


def test_a_wheel_brings_every_program_and_none_of_those_for_maintainers(installed):
    found = {path.relative_to(installed / "ballbot/experiments").as_posix() for path in installed.rglob("*")
             if "experiments" in path.parts and path.name != "experiments"}  # fmt: skip
    assert found == {f"{name}.py" for name in PROGRAMS}
    entries = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "ballbot = ballbot.commands:main" in entries


def test_a_command_of_a_wheel_is_the_program(installed):
    done = ballbot(installed, "sweep", "--help")  # which imports other programs
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("usage: ballbot sweep [-h]") and "    ballbot sweep --seeds 0 1 2 -- " in done.stdout
    done = ballbot(installed, "balance", "--step", "20")
    assert (
        done.returncode == 2 and done.stderr == "error: --step is no option: did you mean --steps? --help tells all\n"
    )


def test_every_program_is_a_command_with_what_it_says_of_itself():
    assert set(commands.COMMANDS.values()) == PROGRAMS
    lines = commands.overview().splitlines()
    for command, name in commands.COMMANDS.items():
        first = (ROOT / "experiments" / f"{name}.py").read_text().splitlines()[0].strip('"')
        assert any(re.fullmatch(rf"  {command} +{re.escape(first)}", line) for line in lines), command


def test_the_list_of_commands_comes_without_torch_and_mujoco():
    code = (
        "import sys; from ballbot.commands import main; main([]); print({'torch', 'mujoco', 'tyro'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: ballbot COMMAND" in done.stdout and done.stdout.endswith("set()\n")


def test_an_unknown_command_is_told_its_nearest(capsys):
    assert commands.main(["evalute"]) == 2
    assert capsys.readouterr().err.startswith("error: ballbot evalute is unknown: did you mean 'evaluate'?")


def test_help_says_how_it_was_called(monkeypatch):
    text = (
        "python experiments/ppo_ballbot.py --seed 1, torchrun experiments/ppo_ballbot.py, experiments/maintenance/a.py"
    )
    assert commands.as_called(text) == text
    monkeypatch.setattr(sys, "argv", ["ballbot train"])
    assert commands.as_called(text) == "ballbot train --seed 1, torchrun -m ballbot train, experiments/maintenance/a.py"


# -- Help ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "topics"), [("ppo_ballbot", 13), ("evaluate", 5)])
def test_help_is_grouped_with_ten_options_first(script, topics, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    program = importlib.import_module(script)
    assert len(program.TOPICS["most used"]) == 10
    named = [name for names in program.TOPICS.values() for name in names]
    assert len(named) == len(set(named))
    text = call(f"{script}.py", "--help").stdout
    boxes = re.split(r"^ ([a-z -]+) options +$", text, flags=re.MULTILINE)
    assert boxes[1] == "most used" and boxes[1::2][: len(program.TOPICS)] == list(program.TOPICS)
    alone = re.search(r"^ options +$(.*?)^ most used options", text, re.MULTILINE | re.DOTALL)
    assert alone and re.findall(r"^  (-\w|--\w[\w-]*)", alone[1], re.MULTILINE) == ["-h"], "an option without topic"


@pytest.mark.parametrize("script", ["benchmark", "compare_integrators"])
def test_tables_in_help_keep_their_lines(script):
    module = importlib.import_module(script)
    rows = re.findall(r"^    \w+ {2,}\S.*$", module.__doc__ or "", re.MULTILINE)
    text = call(f"maintenance/{script}.py", "--help").stdout
    assert len(rows) >= 3 and all(row in text.splitlines() for row in rows)


@pytest.mark.parametrize("script", ["make_results", "make_kinds", "race", "compare_sb3", "plot_contact_frames"])
def test_help_names_no_place_of_this_machine(script):
    text = call(f"maintenance/{script}.py", "--help").stdout
    assert str(ROOT) not in re.sub(r"\s", "", text) and "of this checkout" in " ".join(text.split())


def test_who_reads_the_first_line_only_sees_no_complaint():
    for script in ("distill", "sweep"):
        path = ROOT / "experiments" / f"{script}.py"
        done = subprocess.run(f"{sys.executable} {path} --help | head -n 1", shell=True, capture_output=True, text=True)
        assert done.stderr == "" and done.stdout, script


# -- Errors --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Args:
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Some."""
    num_envs: int = 1
    """Parallel environments."""
    lr: float | None = None
    split: Literal["train", "eval"] = "train"
    cameras: bool = True
    """See."""
    ago: tuple[int, ...] = (0,)
    span: tuple[float, float] = (0.0, 0.0)
    vary: tuple[float, float] | None = None
    """Like ``span``."""
    size: tuple[int, int] | None = None


@dataclasses.dataclass
class Asked:
    robot: Annotated[str, tyro.conf.Positional]
    """Checkpoint, or "linear:0.3"."""
    ground: Annotated[Path, tyro.conf.Positional]
    out: Path
    """File (.html)."""
    seed: int = 0


@pytest.mark.parametrize("topics", [None, {"most used": ("num_envs", "cameras")}])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_cannot_be_read_is_one_line_with_the_value_and_the_remedy(topics, encoding, capfd, monkeypatch):
    monkeypatch.setattr("tyro._fmtlib._should_use_utf8_drawing_chars", lambda: encoding == "utf-8")
    for options, said in (
        (["--num-env", "3"], "--num-env is no option: did you mean --num-envs? --help tells all"),
        (["--no-cameras", "--envs=3"], "--envs is no option: did you mean --num-envs? --help tells all"),
        (["--num-envs", "1.5"], "--num-envs must be a whole number, got '1.5'"),
        (["--num-envs"], "--num-envs needs a value"),
        (["--lr", "fast"], "--lr must be a number, got 'fast'"),
        (["--lr"], "--lr needs a value"),
        (["--ago", "abc"], "--ago must be whole numbers, got 'abc'"),
        (["--span", "5"], "--span needs 2 numbers, from and to, got '5'"),
        (["--span=5", "--lr", "1"], "--span needs 2 numbers, from and to, got '5'"),
        (["--span", "-5", "b"], "--span must be 2 numbers, from and to, got '-5' 'b'"),
        (["--vary", "0.1"], "--vary needs 2 numbers, from and to, got '0.1'"),
        (["--vary", "1", "2", "3"], "--vary needs 2 numbers, from and to, got '1' '2' '3'"),
        (["--size", "64"], "--size needs 2 whole numbers, got '64'"),
        (["--split", "evl"], "--split evl is unknown: did you mean 'eval'? known are eval, train"),
    ):
        with pytest.raises(SettingsError) as error:
            parse(Args, options, None, topics)
        assert str(error.value) == said
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "ROBOT and GROUND and --out must be given: --help tells what"),
        (["mini", "--seed", "1"], "GROUND and --out must be given: --help tells what"),
        (["mini", "flat"], "--out must be given: --help tells what"),
        (["--out", "x.html"], "ROBOT and GROUND must be given: --help tells what"),
    ],
)
def test_what_must_be_given_is_named(options, said):
    with pytest.raises(SettingsError) as error:
        parse(Asked, options, None)
    assert str(error.value) == said


def test_help_is_in_words_of_those_who_type(capsys):
    for cls in (Args, Asked):
        with pytest.raises(SystemExit):
            parse(cls, ["--help"], None)
    said = capsys.readouterr().out
    assert "--lr FLOAT" in said and "--vary FLOAT FLOAT" in said and "Like span." in said and "{None}" not in said
    assert "GROUND" in said and "ROBOT" in said
    assert "Which ballbot: one that comes along" in call("ppo_ballbot.py", "--help").stdout


def test_options_of_topics_are_read_like_those_of_none():
    read = parse(
        Args, ["a", "--num_envs", "3", "--no-cameras", "--lr", "0.5"], None, {"some": ("lr",), "x": ("split",)}
    )
    assert read == Args(("a",), 3, 0.5, "train", False) and type(read) is Args


def test_a_program_ends_with_2_and_a_line():
    for script, options in (("evaluate", ["--episdes", "3"]), ("ppo_ballbot", ["--learning-rat", "3", "--no-cameras"])):
        done = call(f"{script}.py", *options)
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done
        assert re.match(r"error: --\S+ is no option: did you mean --(episodes|learning-rate)", done.stderr)
