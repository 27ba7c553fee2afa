"""What somebody at a terminal reads when a command fails: a refusal is not a bug, and a bug is not a refusal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tasks import cli
from tasks.domain.errors import Conflict, FreshrankError, InputRejected, Unavailable


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """(exit code, what stands on stderr) of a command that raises this."""
    monkeypatch.setenv("FRESHRANK_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["freshrank", "pin", "secret-argument"])
    monkeypatch.setattr("tasks.telemetry_off.apply", lambda: None)

    def run(err: Exception) -> tuple[object, str]:
        def command() -> None:
            raise err

        monkeypatch.setattr(cli, "app", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("err", "code", "said"),
    [
        (InputRejected("no such day"), 2, "refused: no such day\n"),
        (Conflict("somebody was first"), 2, "refused: somebody was first\n"),
        (Unavailable("the store is down"), 75, "unavailable: the store is down\n"),
        (FreshrankError("two drills failed"), 1, "two drills failed\n"),
    ],
)
def test_what_we_raise_on_purpose_is_one_sentence(fails, tmp_path: Path, err: Exception, code: int, said: str) -> None:
    assert fails(err) == (code, said)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("err", [ValueError("invalid literal"), KeyError("release"), ZeroDivisionError("by zero")])
def test_a_programming_error_is_a_bug_and_its_traceback_is_kept(fails, tmp_path: Path, err: Exception) -> None:
    code, said = fails(err)
    log = tmp_path / "logs" / "cli.log"
    assert code == 70 and said.startswith(f"a bug of freshrank: {type(err).__name__}: ") and "refused" not in said
    assert "test_command_errors.py:" in said and str(log) in said and said.count("\n") == 1
    kept = log.read_text()
    assert "Traceback (most recent call last)" in kept and " freshrank pin\n" in kept and "secret-argument" not in kept
    fails(err)
    assert log.read_text().count("Traceback") == 2, "earlier ones stay"


def test_where_no_log_can_be_written_the_traceback_is_shown(fails, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    code, said = fails(KeyError("release"))
    assert code == 70 and "Traceback (most recent call last)" in said


def test_a_file_that_is_not_there_is_no_bug(fails) -> None:
    code, said = fails(FileNotFoundError(2, "No such file or directory", "record.zip"))
    assert code == 1 and said.startswith("failed: No such file or directory: record.zip; ")


def test_a_mistyped_setting_is_a_refusal_and_damaged_data_is_not(fails, tmp_path: Path, monkeypatch) -> None:
    from pydantic import ValidationError

    from tasks.domain.rollout_log import Draft
    from tasks.settings import Settings

    monkeypatch.setenv("FRESHRANK_THREADS", "many")
    with pytest.raises(ValidationError) as setting:
        Settings()
    code, said = fails(setting.value)
    assert code == 2 and said.startswith("refused: ") and "threads" in said
    with pytest.raises(ValidationError) as data:
        Draft.model_validate({})
    assert fails(data.value)[0] == 70
