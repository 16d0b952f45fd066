"""What a run's folder says, as programs read it."""

from __future__ import annotations

import codecs
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ballbot import presets
from ballbot.errors import SettingsError
from ballbot.runs import differences, load_settings, read_config

TEXT = json.dumps({"ppo": {"seed": 7}, "env": {"terrain": "flat"}, "note": "Gelände"}, ensure_ascii=False)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
    ],
    ids=["plain", "marked", "utf-16", "utf-16 of the other order", "utf-16 without a mark"],
)
def test_a_config_is_read_as_editors_of_windows_save_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert read_config(tmp_path / "config.json") == json.loads(TEXT)


def test_a_run_folder_stands_for_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"ppo": {"seed": 7}}))
    assert load_settings(tmp_path) == load_settings(tmp_path / "config.json")
    assert load_settings(tmp_path).settings.ppo.seed == 7
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"empty/config\.json does not exist"):
        load_settings(tmp_path / "empty")


def test_when_rewards_change_decides_nothing_where_none_do() -> None:
    for run, names in ((presets.default(), {"final_rewards_between"}), (presets.distill(), set[str]())):
        other = replace(run, world=replace(run.world, final_rewards_between=(0.1, 0.2)))
        assert set(differences(run, other)) == names


@pytest.mark.parametrize("content", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_LE + b"{", b"\xff\x00\x9f", b"{\xff}"])
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"config\.json cannot be read as JSON"):
        load_settings(tmp_path / "config.json")


def test_settings_of_a_run_on_other_environments_are_refused(tmp_path: Path) -> None:
    run = {"ppo": {"seed": 7}, "env_metadata": {}, "versions": {"torch": "2.13.0"}, "world_size": 1}
    (tmp_path / "config.json").write_text(json.dumps(run))
    with pytest.raises(SettingsError, match="is of a run on other environments than Ballbot-v0"):
        load_settings(tmp_path)
