"""The configuration: sources, their precedence, the file's syntax, and errors that help."""

from pathlib import Path

import pytest

from flambeau.config import Address, config_file, load_config, parse_address, read_properties
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
        ("metrics_address=https://h", ["metrics_address=https://h", "TLS proxy"]),
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


def test_ignored_keys_are_told_in_one_note_each_kind(tmp_path: Path) -> None:
    """One for those of the JVM, one for those that are not known."""
    text = "vmargs=-Xmx1g\nnumber_of_netty_threads=4\nfoo=1\nbar=2\njob_queue_size=3\npreload=\n"
    jvm, unknown = load_config(properties(tmp_path, text), {}, {}).notes
    assert "JVM" in jvm
    assert "number_of_netty_threads, vmargs" in jvm
    assert "bar, foo" in unknown


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
        ("unix:/tmp/x.sock", "unix:/tmp/x.sock"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    """Host and port, with a default port, or a path."""
    assert str(parse_address("inference_address", text, 80)) == expected


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`TS_CONFIG_FILE` beats the flag; then the working directory's file, if there is one."""
    monkeypatch.chdir(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    assert config_file(None, {}) is None
    one.touch()
    two.touch()
    assert config_file(str(one), {"TS_CONFIG_FILE": str(two)}) == two
    assert config_file(str(one), {}) == one
    properties(tmp_path, "")
    assert config_file(None, {}) == Path("config.properties")
    with pytest.raises(ConfigError, match="--ts-config file not found: nowhere"):
        config_file("nowhere", {})


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """The error says which file and why."""
    file = tmp_path / "config.properties"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"config\.properties cannot be read"):
        load_config(file, {}, {})
