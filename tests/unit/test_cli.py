from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamwatch import __version__
from streamwatch.cli import COMMANDS, find_command, main

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "streamwatch.yaml"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"streamwatch {__version__}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: streamwatch {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["serve", "-c", "x"], ("serve", ["-c", "x"])),
        (["weights", "list", "--json"], ("weights list", ["--json"])),
        (["weights"], None),
        (["nonsense"], None),
    ],
)
def test_find_command(arguments: list[str], found: tuple[str, list[str]] | None) -> None:
    assert find_command(arguments) == found


def test_unknown_commands_exit_2_and_say_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert "there is no command 'nonsense'" in capsys.readouterr().err
    assert main(["weights"]) == 2
    assert "list, pull, import, verify" in capsys.readouterr().err
    assert main([]) == 2


def test_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(EXAMPLE)]) == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("server: {prot: 1}\nnope: 2\n")
    assert main(["config", "check", str(bad)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"streamwatch: {bad}: server.prot: unknown key", f"streamwatch: {bad}: nope: unknown key"]


def test_a_url_that_nothing_can_open_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    urls = ("gopher://u:hunter2@x", "rtsp:///x", "whip:", "canary:", "rtsp://u:hun/ter2@h/")
    bad.write_text(
        "streams:\n" + "".join(f"  {name}: {{url: '{url}'}}\n" for name, url in zip("abcde", urls, strict=True))
    )
    assert main(["config", "check", str(bad)]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert third.startswith(f"streamwatch: {bad}: streams.e.url: is not a valid address")
    assert "hun" not in third
    assert first.startswith(f"streamwatch: {bad}: streams.a.url: the scheme 'gopher' is none of rtsp:, ")
    assert second == f"streamwatch: {bad}: streams.b.url: rtsp:// needs a host"
    assert main(["watch", "gopher://u:hunter2@x", "--port", "0"]) == 2
    assert main(["watch", "rtsp://u:hunter2@[/x", "--port", "0"]) == 2
    assert "hunter2" not in first + capsys.readouterr().err


def test_config_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "StreamWatch configuration"


def test_serve_with_a_half_configured_file_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half.yaml"
    half.write_text("streams: {lobby: {name: Lobby}}\n")
    assert main(["serve", "-c", str(half)]) == 2
    assert "streams.lobby.url: is required" in capsys.readouterr().err


def test_weights_that_are_missing_exit_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMWATCH_WEIGHTS_DIR", str(tmp_path))
    assert main(["watch", "rtsp://127.0.0.1:9/x", "--port", "0", "--duration", "1"]) == 4


def test_help_does_not_load_torch() -> None:
    code = "import sys; from streamwatch.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc to see how far the start has come")
@pytest.mark.parametrize("library", ["numpy", "libtorch_cpu"])
def test_an_interrupted_start_ends_quietly(library: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamwatch", "watch", "rtsp://127.0.0.1:9/x", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            maps = Path(f"/proc/{process.pid}/maps")
            deadline = time.monotonic() + 60
            while library not in maps.read_text():
                assert time.monotonic() < deadline and process.poll() is None, f"{library} was not loaded"
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert "Traceback" not in errors.decode()
    assert process.returncode in (130, -signal.SIGINT)
