# mypy: allow-untyped-calls
"""TensorBoard's tab of hyperparameters has a row for each run, as its own code reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups
from toy import BATCH, TOY, PointEnv, curve, run

from ballbot.ppo import PPOConfig, Record, train
from ballbot.ppo.events import EventFile


def table(folder: Path) -> tuple[set[str], dict[str, Any]]:
    """Names of the columns of settings, and a row for each run: its settings and metrics."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    backend = backend_context.Context(TBContext(data_provider=provider))
    columns = get_experiment.Handler(RequestContext(), backend, "", api_pb2.GetExperimentRequest()).run()
    every = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]
    request = api_pb2.ListSessionGroupsRequest(slice_size=100, allowed_statuses=every)
    response = list_session_groups.Handler(RequestContext(), backend, "", request).run()
    rows = {}
    for group in response.session_groups:
        (session,) = group.sessions
        settings = {name: value for name, value in group.hparams.items()}
        rows[group.name] = (settings, {value.name.tag: value.value for value in session.metric_values})
    return {info.name for info in columns.hparam_infos}, rows


def test_runs_are_rows_with_settings_and_their_last_and_best_values(tmp_path: Path) -> None:
    run(tmp_path / "a", learning_rate=1e-3)
    kept = Record(settings={"env": {"terrain": "flat", "ground": {"height": 0.5}, "cameras": False, "none": None}})
    train(PPOConfig(**TOY), PointEnv, PointEnv, run_dir=tmp_path / "b", record=kept, console=False)
    columns, rows = table(tmp_path)
    assert rows.keys() == {"a", "b"}
    assert {"learning_rate", "normalize_observations", "env.ground.height", "env.cameras", "env.none"} <= columns
    settings, metrics = rows["b"]
    assert settings["env.terrain"].string_value == "flat" and settings["env.ground.height"].number_value == 0.5
    assert settings["env.none"].string_value == "None" and settings["normalize_observations"].bool_value is True
    assert rows["a"][0]["learning_rate"].number_value == 1e-3
    evaluations = [float(row["eval/return_mean"]) for row in curve(tmp_path / "b") if row["eval/return_mean"]]
    assert metrics["eval/return_mean"] == pytest.approx(evaluations[-1])
    assert metrics["best/return_mean"] == pytest.approx(max(evaluations))
    assert metrics["charts/episodic_return"] == pytest.approx(
        float(curve(tmp_path / "b")[-1]["charts/episodic_return"])
    )


def test_a_resumed_run_stays_one_row(tmp_path: Path) -> None:
    run(tmp_path / "a")
    before = max(float(row["eval/return_mean"] or -9e9) for row in curve(tmp_path / "a"))
    run(tmp_path / "a", resume=tmp_path / "a", total_timesteps=14 * BATCH, learning_rate=1e-9)
    _, rows = table(tmp_path)
    assert rows.keys() == {"a"}
    later = [float(row["eval/return_mean"]) for row in curve(tmp_path / "a")[10:] if row["eval/return_mean"]]
    assert rows["a"][1]["eval/return_mean"] == pytest.approx(later[-1])
    assert rows["a"][1]["best/return_mean"] == pytest.approx(max(before, *later))
    assert rows["a"][0]["learning_rate"].number_value == pytest.approx(3e-4)  # of the start
    run(tmp_path / "a", resume=tmp_path / "a" / "checkpoints" / f"step_{4 * BATCH}.pt")  # back to a point before
    assert table(tmp_path)[1].keys() == {"a"}


def test_names_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    """As of files, where Python's locale is C."""
    events = EventFile(tmp_path)
    events.settings({"teacher": "runs/\udcfc"}, "\udcc3\udcbc")
    assert b"runs/\\udcfc" in events.path.read_bytes() and b"\\udcc3\\udcbc" in events.path.read_bytes()
