"""The configuration: sources, their precedence, the file's syntax, and errors that help."""

from pathlib import Path

import pytest

from flambeau.config import (
    MAX_REQUEST_BYTES,
    Address,
    config_file,
    load_config,
    parse_address,
    read_properties,
)
from flambeau.errors import ConfigError


def properties(folder: Path, text: str) -> Path:
    file = folder / "config.properties"
    file.write_text(text)
    return file


def test_defaults_listen_on_loopback_only(tmp_path: Path) -> None:
    """TorchServe's ports, no model API, nothing to warn of."""
    config = load_config(None, {}, {"FLAMBEAU_CACHE": str(tmp_path)})
    addresses = (config.inference_address, config.management_address, config.metrics_address)
    assert [address.port for address in addresses] == [8080, 8081, 8082]
    assert {address.host for address in addresses} == {"127.0.0.1"}
    assert not config.enable_model_api
    assert config.notes == ()
    assert config.cache_dir == tmp_path


def test_precedence_is_environment_then_flag_then_file_then_default(tmp_path: Path) -> None:
    """The environment counts only where the file says so."""
    text = "job_queue_size=7\nmodel_store=/file\nmax_request_size=5\n"
    env = {"TS_JOB_QUEUE_SIZE": "9", "TS_MODEL_STORE": "/environment"}
    flags: dict[str, object] = {"model_store": Path("/flag"), "load_models": None}
    config = load_config(properties(tmp_path, text), flags, env)
    assert (config.job_queue_size, str(config.model_store)) == (7, "/flag")
    assert config.max_request_size == 5
    assert config.default_response_timeout == 120
    config = load_config(properties(tmp_path, text + "enable_envvars_config=True"), flags, env)
    assert (config.job_queue_size, str(config.model_store)) == (9, "/environment")


def test_environment_cannot_set_what_torchserve_does_not_let_it(tmp_path: Path) -> None:
    """`models` comes from the file only (section 2.5)."""
    file = properties(tmp_path, "enable_envvars_config=true\n")
    assert load_config(file, {}, {"TS_MODELS": "no json"}).models == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", {"a": "b"}),
        ("a:b", {"a": "b"}),
        ("a b c", {"a": "b c"}),
        ("  a = b  ", {"a": "b"}),
        ("a=b=c:d", {"a": "b=c:d"}),
        ("a=", {"a": ""}),
        ("a", {"a": ""}),
        ("# a=1\n! b=2\n\n  # c=3\nd=4", {"d": "4"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=b\\\n    c\\\n  d\ne=f", {"a": "bcd", "e": "f"}),
        ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
        ("# comment \\\na=b", {"a": "b"}),
        ("a=b\\", {"a": "b"}),
        ("a\\=b=c", {"a=b": "c"}),
        ("a=\\u00e9\\t.", {"a": "é\t."}),
        ("a=x\x0cy", {"a": "x\x0cy"}),
        ("a=$$NAME$$/$$NAME$$", {"a": "value/value"}),
        ("a=$$x", {"a": "$$x"}),
        ("a=b\r\nc=d\\\r\n  e\r\n", {"a": "b", "c": "de"}),
    ],
)
def test_the_file_is_a_java_properties_file(
    tmp_path: Path, text: str, expected: dict[str, str]
) -> None:
    """Comments, separators, escapes, continuation lines, environment references."""
    file = tmp_path / "config.properties"
    file.write_bytes(text.encode())
    assert read_properties(file, {"NAME": "value"}) == expected


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("job_queue_size=many", ["job_queue_size=many", "whole number"]),
        ("job_queue_size=1.5", ["job_queue_size=1.5", "whole number"]),
        ("job_queue_size=0", ["job_queue_size=0", "from 1"]),
        ("job_queue_size=", ["job_queue_size=", "whole number"]),
        ("default_response_timeout=0", ["default_response_timeout=0", "from 1"]),
        ("default_response_timeout=nan", ["default_response_timeout=nan", "a number"]),
        ("default_startup_timeout=inf", ["default_startup_timeout=inf", "a number"]),
        ("max_request_size=99999999999", ["max_request_size", "99999999999", "from 1 to"]),
        ("default_workers_per_model=-1", ["default_workers_per_model=-1", "from 0"]),
        ("inference_address=localhost:80", ["inference_address=localhost:80", "http://host:port"]),
        ("inference_address=http://h:99999", ["http://h:99999", "http://host:port"]),
        ("management_address=unix:", ["management_address=unix:", "unix:/path"]),
        ("metrics_address=ftp://h", ["metrics_address=ftp://h", "https://host:port"]),
        ("allowed_urls=https://a/.*,http://[", ["allowed_urls=http://[", "regular expression"]),
        ("blacklist_env_vars=(", ["blacklist_env_vars=(", "regular expression"]),
        ("metrics_mode=csv", ["metrics_mode=csv", "one of log, prometheus, legacy"]),
        ("service_envelope=xml", ["service_envelope=xml", "one of body, json, kserve, kservev2"]),
        ("token_expiration_min=soon", ["token_expiration_min=soon", "a number"]),
        ("grpc_inference_port=70700", ["grpc_inference_port=70700", "from 0 to 65535"]),
        ("model_snapshot=x", ["model_snapshot", "a JSON object"]),
        ("model_store=$$NOT_SET$$", ["model_store", "$$NOT_SET$$"]),
        ("models={", ["models", '{"name"']),
        ('models={"a": 1}', ["models", '{"name"']),
    ],
)
def test_a_wrong_value_is_one_clear_error(tmp_path: Path, line: str, parts: list[str]) -> None:
    """It names the key, the value and what is expected."""
    with pytest.raises(ConfigError) as raised:
        load_config(properties(tmp_path, line), {}, {})
    assert raised.value.message.startswith("Invalid configuration: ")
    assert "\n" not in raised.value.message
    for part in parts:
        assert part in raised.value.message


def test_ignored_keys_are_told_in_one_note_each_reason(tmp_path: Path) -> None:
    """The JVM's, gRPC's only where they are set, and last those that are not known."""
    text = "vmargs=-Xmx1g\nnumber_of_netty_threads=4\nfoo=1\nbar=2\njob_queue_size=3\npreload=\n"
    text += "grpc_inference_port=7070\ndebug=false\nversion=0.12.0\nenable_grpc_ssl=false\n"
    grpc, jvm, unknown = load_config(properties(tmp_path, text), {}, {}).notes
    assert "gRPC is not supported yet" in grpc
    assert grpc.endswith(": grpc_inference_port")
    assert "JVM" in jvm
    assert jvm.endswith(": number_of_netty_threads, vmargs")
    assert unknown.endswith(": bar, foo")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("default_worker_per_model", "default_workers_per_model"),
        ("max_requst_size", "max_request_size"),
        ("Job_Queue_Size", "job_queue_size"),
        ("vmarg", "vmargs"),
    ],
)
def test_a_misspelt_key_is_told_with_the_one_that_was_meant(
    tmp_path: Path, wrong: str, meant: str
) -> None:
    """TorchServe ignores it in silence."""
    (note,) = load_config(properties(tmp_path, f"{wrong}=1"), {}, {}).notes
    assert f"{wrong} (did you mean {meant}?)" in note


def test_variables_that_nobody_listens_to_are_told(tmp_path: Path) -> None:
    """The switch that is missing is named, and `TS_ALLOWED_URLS` needs one more (section 2.5)."""
    env = {"TS_JOB_QUEUE_SIZE": "9", "TS_ALLOWED_URLS": "https://a/.*", "TS_ELSE": "1"}
    config = load_config(properties(tmp_path, ""), {}, env)
    (note,) = config.notes
    assert "TS_ALLOWED_URLS, TS_JOB_QUEUE_SIZE" in note
    assert "enable_envvars_config=true" in note
    config = load_config(properties(tmp_path, "enable_envvars_config=true"), {}, env)
    (note,) = config.notes
    assert (config.job_queue_size, config.allowed_urls) == (9, ())
    assert ": TS_ALLOWED_URLS;" in note
    assert "use_env_allowed_urls=true" in note
    both = "enable_envvars_config=true\nuse_env_allowed_urls=TRUE\nallowed_urls=file://.*"
    config = load_config(properties(tmp_path, both), {}, env)
    assert config.allowed_urls == ("https://a/.*",)
    assert config.notes == ()


def test_every_variable_that_torchserve_has_is_heard(tmp_path: Path) -> None:
    """Odd names are kept, and what TorchServe does not let be set cannot be (section 2.5)."""
    file = properties(tmp_path, "enable_envvars_config=true")
    env = {
        "TS_TOKEN_EXPIRATION_TIME_MIN": "0.5",
        "TS_HEADER_KEY_SEQUENCE_ID": "s-id",
        "TS_HEADER_KEY_SEQUENCE_START": "s-start",
        "TS_HEADER_KEY_SEQUENCE_END": "s-end",
        "TS_DISABLE_TOKEN_AUTHORIZATION": "true",
        "TS_ENABLE_MODEL_API": "true",
        "TS_DEFAULT_WORKERS_PER_MODEL": "3",
        "TS_SERVICE_ENVELOPE": "kserve",
        "TS_METRICS_MODE": " Prometheus ",
        "TS_INFERENCE_ADDRESS": "http://127.0.0.1:1",
        # not settable
        "TS_MODEL_SNAPSHOT": "{}",
        "TS_METRIC_TIME_INTERVAL": "1",
        "TS_SYSTEM_METRICS_CMD": "x",
        "TS_NO_CONFIG_SNAPSHOTS": "true",
    }
    config = load_config(file, {}, env)
    assert config.token_expiration_min == 0.5
    keys = ("id", "start", "end")
    assert [getattr(config, f"ts_header_key_sequence_{key}") for key in keys] == [
        "s-id", "s-start", "s-end"
    ]  # fmt: skip
    assert config.disable_token_authorization
    assert config.enable_model_api
    assert config.default_workers_per_model == 3
    assert (config.service_envelope, config.metrics_mode) == ("kserve", "prometheus")
    assert config.inference_address.port == 1
    assert config.metric_time_interval == 60
    assert not config.no_config_snapshots


def test_the_open_inference_variable_needs_no_switch(tmp_path: Path) -> None:
    """`oip` turns it on, any other text off, even where the file says true (section 2.6)."""
    file = properties(tmp_path, "ts_open_inference_protocol=true")

    def on(path: Path | None, value: str) -> bool:
        return load_config(path, {}, {"TS_OPEN_INFERENCE_PROTOCOL": value}
        ).ts_open_inference_protocol  # fmt: skip

    assert [on(None, "oip"), on(None, "true"), on(file, ""), on(file, "no")] == [
        True, False, True, False
    ]  # fmt: skip


def test_where_logs_and_unpacked_models_go(tmp_path: Path) -> None:
    """`LOG_LOCATION`, `METRICS_LOCATION`, `TEMP` (section 2.6)."""
    config = load_config(None, {}, {"HOME": "/h"})
    assert (str(config.log_location), str(config.metrics_location)) == ("logs", "logs")
    env = {"LOG_LOCATION": "/l", "METRICS_LOCATION": "/m", "TEMP": str(tmp_path)}
    config = load_config(None, {}, env)
    assert (str(config.log_location), str(config.metrics_location)) == ("/l", "/m")
    assert config.cache_dir == tmp_path / "flambeau"
    assert load_config(None, {}, env | {"FLAMBEAU_CACHE": "/c"}).cache_dir == Path("/c")
    with pytest.raises(ConfigError, match="Invalid temp directory: /nowhere, please check TEMP"):
        load_config(None, {}, {"TEMP": "/nowhere"})


def test_variables_without_an_effect_are_told() -> None:
    """One line each, with the reason (section 2.6)."""
    env = {"TS_MODEL_SERVER_HOME": "/x", "SM_TELEMETRY_LOG": "1", "TS_BENCHMARK": ""}
    telemetry, home = load_config(None, {}, env).notes
    assert telemetry == (
        "The variable SM_TELEMETRY_LOG is ignored: SageMaker's telemetry lines are not written"
    )
    assert "TS_MODEL_SERVER_HOME is ignored" in home


def test_a_request_size_beyond_ours_is_lowered(tmp_path: Path) -> None:
    """TorchServe takes up to 2147483647; such a file must still start the server."""
    config = load_config(properties(tmp_path, "max_request_size=2147483647"), {}, {})
    assert config.max_request_size == MAX_REQUEST_BYTES
    (note,) = config.notes
    assert note.startswith(f"max_request_size=2147483647 is lowered to {MAX_REQUEST_BYTES}")


def test_toml_holds_the_same_keys(tmp_path: Path) -> None:
    """With TOML's types; in place of config.properties, or beside it, where it wins."""
    own = tmp_path / "flambeau.toml"
    own.write_text(
        'job_queue_size = 7\nenable_model_api = true\nload_models = ["a.mar", "b"]\n'
        'model_store = "$$HERE$$"\ndefault_startup_timeout = 2.5\n'
        '[models.m."1.0"]\nbatchSize = 4\n'
    )
    config = load_config(own, {}, {"HERE": "/here"})
    assert (config.job_queue_size, config.enable_model_api) == (7, True)
    assert config.load_models == ("a.mar", "b")
    assert config.model_store == Path("/here")
    assert config.default_startup_timeout == 2.5
    assert config.models == {"m": {"1.0": {"batchSize": 4}}}
    file = properties(tmp_path, "job_queue_size=1\nmax_request_size=2\n")
    config = load_config(file, {}, {"HERE": "/here"})
    assert (config.job_queue_size, config.max_request_size) == (7, 2)
    own.write_text("job_queue_size = true")
    with pytest.raises(ConfigError, match="job_queue_size=true: expected a whole number"):
        load_config(own, {}, {})
    own.write_text("job_queue_size = ")
    with pytest.raises(ConfigError, match=r"flambeau\.toml cannot be read: Invalid value"):
        load_config(own, {}, {})


def test_values_take_their_types(tmp_path: Path) -> None:
    """Switches are true for `true` in any case only; lists are split; JSON is read."""
    text = (
        "enable_model_api=TRUE\ndecode_input_request=yes\nload_models= a.mar , b=c.mar,,\n"
        'models={"m": {"1.0": {"batchSize": 4}}}\npreload=json, math\n'
        "inference_address=http://[::1]:0\n"
    )
    config = load_config(properties(tmp_path, text), {}, {})
    assert config.enable_model_api
    assert not config.decode_input_request
    assert config.load_models == ("a.mar", "b=c.mar")
    assert config.models["m"]["1.0"] == {"batchSize": 4}
    assert config.preload == ("json", "math")
    assert config.inference_address == Address("::1", 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://h:1234", "http://h:1234"),
        ("http://h", "http://h:80"),
        ("http://[::1]:8/", "http://[::1]:8"),
        ("HTTPS://h", "https://h:443"),
        ("https://h:1", "https://h:1"),
        ("unix:/tmp/x.sock", "unix:/tmp/x.sock"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    """Host and port, with a default port, or a path."""
    assert str(parse_address("inference_address", text)) == expected


def test_default_ports_depend_on_the_key_and_on_tls() -> None:
    """TorchServe's six (section 3.1)."""
    for key, ports in {
        "inference_address": (80, 443),
        "management_address": (8081, 8444),
        "metrics_address": (8082, 8445),
    }.items():
        found = [parse_address(key, f"{scheme}://h").port for scheme in ("http", "https")]
        assert tuple(found) == ports


def test_the_record_does_not_show_the_password() -> None:
    """Whoever logs it, or sees it in a traceback, learns nothing."""
    shown = repr(load_config(None, {"keystore_pass": "s3cret"}, {}))
    assert "s3cret" not in shown
    assert "job_queue_size=100" in shown


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`TS_CONFIG_FILE` beats the flag; then the working directory's file, if there is one."""
    monkeypatch.chdir(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    assert config_file(None, {}) is None
    one.touch()
    two.touch()
    assert config_file(str(one), {"TS_CONFIG_FILE": str(two)}) == two
    assert config_file(str(one), {}) == one
    (tmp_path / "flambeau.toml").touch()
    assert config_file(None, {}) == Path("flambeau.toml")
    properties(tmp_path, "")
    assert config_file(None, {}) == Path("config.properties")
    with pytest.raises(ConfigError, match="--ts-config file not found: nowhere"):
        config_file("nowhere", {})


def test_files_of_other_editors_are_read(tmp_path: Path) -> None:
    """With the mark that Windows puts before UTF-8, and in Latin-1, which Java's files are in."""
    file = tmp_path / "config.properties"
    file.write_bytes("\ufeffjob_queue_size=7\r\n".encode())
    config = load_config(file, {}, {})
    assert (config.job_queue_size, config.notes) == (7, ())
    file.write_bytes("# f\xfcr alle\ncors_allowed_headers=\xe9\n".encode("latin-1"))
    assert load_config(file, {}, {}).cors_allowed_headers == "\xe9"


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """The error says which file and why."""
    file = tmp_path / "config.properties"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"config\.properties cannot be read"):
        load_config(file, {}, {})
