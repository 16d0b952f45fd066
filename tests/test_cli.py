"""Programs end in a line, with a status that says how, and refuse options out of range."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from ballbot.cli import check_options, check_output, program
from ballbot.encoders import DatasetError, EncoderError
from ballbot.errors import BallbotError, SettingsError
from ballbot.ppo import CheckpointError, DivergedError, LostContactError, RunDirectoryError
from ballbot.ppo.tracking import TrackingError
from ballbot.settings import Range
from mujoco_patch import ContactFixError


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (SettingsError("gamma must be a number"), 2, "error: gamma must be a number\n"),
        (ContactFixError("no contact fix"), 2, "error: no contact fix\n"),
        (OSError(28, "No space left on device", "a.pt"), 2, "error: [Errno 28] No space left on device: 'a.pt'\n"),
        (ValueError("two\n  lines"), 2, "error: two lines\n"),
        (ModuleNotFoundError("no onnx.checker", name="onnx.checker"), 2, "error: onnx is missing: pip install onnx"),
        (MemoryError("64 GiB"), 2, "error: out of memory (64 GiB)\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (BrokenPipeError(), 141, ""),
    ],
)  # fmt: skip
def test_errors_are_a_line_and_a_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @program
    def main(argv: list[str] | None = None) -> int:
        raise error

    assert main() == status
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == (said != "")


def test_other_statuses_are_those_of_main() -> None:
    assert [program(lambda argv, status=status: status)([]) for status in (0, 1)] == [0, 1]
    with pytest.raises(ZeroDivisionError):  # a bug is to be seen
        program(lambda argv: 1 // 0)()


@pytest.mark.parametrize("script", ["evaluate", "ppo_ballbot", "maintenance/reproduce"])
def test_nobody_reads_the_help_to_its_end(script: str) -> None:
    path = Path(__file__).parents[1] / "experiments" / f"{script}.py"
    process = subprocess.Popen(
        [sys.executable, str(path), "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


def test_every_error_that_is_explained_has_one_base_and_its_old_one() -> None:
    errors = (CheckpointError, DatasetError, DivergedError, EncoderError, LostContactError, RunDirectoryError)
    for error in (*errors, TrackingError):
        assert issubclass(error, BallbotError) and issubclass(error, RuntimeError)
    assert issubclass(SettingsError, BallbotError) and issubclass(SettingsError, ValueError)


def test_options_are_named_as_on_the_command_line() -> None:
    @dataclass
    class Args:
        num_envs: Annotated[int, Range(1, 8)] = 1
        out: Path | None = None

    check_options(Args())
    with pytest.raises(SettingsError, match="--num-envs must be a whole number from 1 to 8, got 9"):
        check_options(Args(num_envs=9))


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    check_output(tmp_path / "a.json", "--json", (".json",))
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "a.txt", "must end in"),
        (tmp_path / "b/a.json", "folder"),
    ):
        with pytest.raises(SettingsError, match=message):
            check_output(path, "--json", (".json",))
    with pytest.raises(SettingsError, match="would overwrite"):
        check_output(tmp_path / "a.json", "--json", keep=[tmp_path / "a.json"])
