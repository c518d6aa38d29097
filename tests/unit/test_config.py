from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from streamwatch import config
from streamwatch.alerts.rules import check_rules
from streamwatch.errors import ConfigError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "streamwatch.yaml"
LOBBY = "streams: {lobby: {url: 'rtsp://x/y'}}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "streamwatch.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file() -> None:
    loaded = config.load(None, {})
    assert loaded.server.host == "127.0.0.1"
    assert loaded.ingest.sample_fps == 2.0
    assert set(loaded.alerts.rules) == {"deepfake", "stream-down", "stream-stale", "detector-drift"}


def test_shipped_example_loads_and_fits_the_published_schema() -> None:
    loaded = config.load(EXAMPLE, {})
    assert loaded.streams
    jsonschema.validate(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")), config.json_schema())


def all_fields(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[str]:
    """Names of every setting below a model."""
    if model in seen:
        return set()
    seen.add(model)
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(field.alias or name)
        for part in model_types(field.annotation):
            names |= all_fields(part, seen)
    return names


def model_types(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in model_types(part)]


def test_every_field_stands_in_the_shipped_example() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    missing = {name for name in all_fields(config.Config, set()) if f"{name}:" not in text}
    assert not missing


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("serverr: {}", "serverr: unknown key"),
        ("server: {port: 70000}", "server.port: Input should be less than or equal to 65535"),
        ("streams: {Lobby: {url: 'rtsp://x/y'}}", "streams.Lobby"),
        ("streams: {lobby: {}}", "streams.lobby.url: is required"),
        ("streams: {lobby: {url: 'rtsp://x/y', roi: [0.5, 0, 0.2, 1]}}", "streams.lobby.roi: must be [x0, y0, x1, y1]"),
        ("server: {tls_cert: a.pem}", "server: tls_cert and tls_key go together"),
        ("a: 1\na: 2", "line 2, column 1: the key 'a' is given twice"),
        ("a: [1", "line 1"),
        ("- just\n- a list", "must be a mapping"),
        ("alerts: {overrides: {x: {nope: {}}}}", "there is no such rule"),
        (LOBBY + "alerts: {overrides: {hall: {deepfake: {}}}}", "alerts.overrides.hall: there is no such stream"),
        (
            LOBBY + "alerts: {rules: {deepfake: {streams: [lobby, loby]}}}",
            "alerts.rules.deepfake.streams: loby: there is no such stream",
        ),
        (
            LOBBY + "alerts: {silences: {night: {streams: [lobbby], start: '02:00', end: '03:00'}}}",
            "alerts.silences.night.streams: lobbby: there is no such stream",
        ),
        (
            LOBBY + "alerts: {rules: {detector-drift: {streams: [lobby]}}}",
            "alerts.rules.detector-drift.streams: a detector_drift rule speaks of all streams together",
        ),
        (
            LOBBY + "alerts: {overrides: {lobby: {detector-drift: {threshold: 2}}}}",
            "alerts.overrides.lobby.detector-drift: a detector_drift rule speaks of all streams together",
        ),
        (
            LOBBY + "alerts: {overrides: {lobby: {deepfake: {kind: detector_drift}}}}",
            "alerts.overrides.lobby.deepfake: a detector_drift rule speaks of all streams together",
        ),
        ("alerts: {rules: {fast: {kind: cusum, threshold: 0}}}", "alerts.rules.fast.threshold: must be greater than 0"),
        (
            "alerts: {rules: {detector-drift: {threshold: -1}}}",
            "alerts.rules.detector-drift.threshold: must be greater than 0",
        ),
        ("alerts: {rules: {own: {threshold: 0.8}}}", "alerts.rules.own.kind: is required"),
        ("alerts: {rules: [deepfake]}", "alerts.rules: Input should be a valid dictionary"),
        ("streams:\n  lobby:\n    url: {{ lobby_url }}", "line 3, column 11: a key must be plain text"),
    ],
)
def test_each_fault_is_one_line_with_its_path(tmp_path: Path, text: str, fault: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path, {})
    assert caught.value.exit_code == 2
    assert all(line.startswith(str(path)) for line in caught.value.faults)
    assert any(fault in line for line in caught.value.faults)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, "nope: 1\nserver: {port: -1}\nscoring: {trim: 2}"), {})
    assert len(caught.value.faults) == 3


def test_every_name_that_nothing_bears_is_told_at_once(tmp_path: Path) -> None:
    text = "alerts: {rules: {deepfake: {streams: [a, b]}}, overrides: {c: {deepfake: {}, d: {}}}}"
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, LOBBY + text), {})
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("alerts: {rules: {deepfake: {streams: [api]}}}", id="where the API alone adds streams"),
        pytest.param(LOBBY + "alerts: {rules: {deepfake: {streams: [lobby]}}}", id="a stream that is there"),
        pytest.param(
            LOBBY + "alerts: {rules: {canary: {kind: canary, streams: [canary], enabled: false}}}",
            id="a rule that is off",
        ),
    ],
)
def test_names_that_may_be_borne_pass(tmp_path: Path, text: str) -> None:
    assert config.load(write(tmp_path, text), {}).alerts.rules


def test_an_override_may_not_take_a_cusum_rule_to_zero(tmp_path: Path) -> None:
    text = "alerts: {rules: {fast: {kind: cusum}}, overrides: {lobby: {fast: {threshold: 0}}}}"
    with pytest.raises(ConfigError, match=r"^alerts\.overrides\.lobby\.fast\.threshold: must be greater than 0$"):
        check_rules(config.load(write(tmp_path, text), {}).alerts)


def test_rules_go_over_the_defaults_by_name_and_field(tmp_path: Path) -> None:
    text = """alerts:
  rules:
    deepfake: {threshold: 0.8}
    stream-stale: {enabled: false}
    faceless: {kind: no_face_for, for: 60}
"""
    jsonschema.validate(yaml.safe_load(text), config.json_schema())
    said = {"STREAMWATCH_ALERTS__RULES__STREAM_DOWN__FOR": "90"}
    rules = config.load(write(tmp_path, text), said).alerts.rules
    assert set(rules) == {*config.DEFAULT_RULES, "faceless"}
    default = config.load(None, {}).alerts.rules
    assert rules["deepfake"] == default["deepfake"].model_copy(update={"threshold": 0.8})
    assert not rules["stream-stale"].enabled
    assert rules["stream-down"] == default["stream-down"].model_copy(update={"for_": 90.0})
    assert rules["detector-drift"] == default["detector-drift"]


def test_the_rules_that_the_readme_shows_hold(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(alerts:\n.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    loaded = config.load(write(tmp_path, shown), {}).alerts
    check_rules(loaded)
    assert set(loaded.rules) == {*config.DEFAULT_RULES, "nobody"}
    assert (loaded.rules["deepfake"].severity.value, loaded.rules["deepfake"].for_) == ("critical", 2.0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "absent.yaml", {})


def test_environment_goes_over_the_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("rtsp://u:hunter2@camera/1\n")
    path = write(tmp_path, "server: {port: 1}\nstreams: {front-door: {url: 'rtsp://old/1', sample_fps: 1}}")
    loaded = config.load(
        path,
        {
            "STREAMWATCH_SERVER__PORT": "9000",
            "STREAMWATCH_STREAMS__FRONT_DOOR__URL_FILE": str(secret),
            "STREAMWATCH_DATA_DIR": "/somewhere",
            "PATH": "/bin",
        },
    )
    assert loaded.server.port == 9000
    assert loaded.streams["front-door"].url.get_secret_value() == "rtsp://u:hunter2@camera/1"
    assert loaded.streams["front-door"].sample_fps == 1


def test_an_unknown_variable_is_a_fault_too() -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        config.load(None, {"STREAMWATCH_SERVER__PROT": "1"})


def test_a_fault_of_a_variable_names_the_variable_and_not_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {port: 1}\nstreams: {front-door: {url: 'rtsp://old/1'}}\nscoring: {trim: 2}")
    variables = {"STREAMWATCH_SERVER__PORT": "99999", "STREAMWATCH_STREAMS__FRONT_DOOR__SAMPLE_FPS": "-1"}
    with pytest.raises(ConfigError) as caught:
        config.load(path, variables)
    places = sorted(fault.partition(": ")[0] for fault in caught.value.faults)
    assert places == sorted([*variables, str(path)])


def test_secrets_appear_in_no_fault_and_no_repr(tmp_path: Path) -> None:
    path = write(tmp_path, "streams: {lobby: {url: 'rtsp://u:hunter2@h/1', sample_fps: nonsense, threshold: hunter2}}")
    with pytest.raises(ConfigError) as caught:
        config.load(path, {})
    assert "hunter2" not in str(caught.value)
    fine = config.load(write(tmp_path, "streams: {lobby: {url: 'rtsp://u:hunter2@h/1'}}"), {})
    assert "hunter2" not in repr(fine)
    assert "hunter2" not in fine.model_dump_json()
