"""The schema: every key of TorchServe's, and the page that is made from it."""

import subprocess
import sys
from pathlib import Path

from flambeau.config.ignored import IGNORED, SILENT
from flambeau.config.load import SCHEMA

_KEYS = """
inference_address management_address metrics_address grpc_inference_address grpc_management_address
grpc_inference_port grpc_management_port grpc_inference_max_connection_age_ms
grpc_inference_max_connection_age_grace_ms grpc_management_max_connection_age_ms
grpc_management_max_connection_age_grace_ms enable_grpc_ssl initial_worker_port
initial_distribution_port number_of_netty_threads netty_client_threads prefer_direct_buffer
use_native_io io_ratio cors_allowed_origin cors_allowed_methods cors_allowed_headers
private_key_file certificate_file keystore keystore_pass keystore_type model_store workflow_store
load_models models model_snapshot default_workers_per_model default_response_timeout
default_startup_timeout unregister_model_timeout job_queue_size max_request_size max_response_size
limit_max_image_pixels decode_input_request default_service_handler service_envelope
install_py_dep_per_model number_of_gpu blacklist_env_vars allowed_urls use_env_allowed_urls
enable_envvars_config disable_token_authorization token_expiration_min enable_model_api
enable_metrics_api metrics_mode metrics_config model_metrics_auto_detect disable_system_metrics
metric_time_interval system_metrics_cmd ts_open_inference_protocol ts_header_key_sequence_id
ts_header_key_sequence_start ts_header_key_sequence_end cpu_launcher_enable cpu_launcher_args
ipex_enable ipex_gpu_enable cpp_log_config async_logging debug model_server_home python vmargs
plugins_path version tsConfigFile
"""


def test_every_key_of_torchserve_is_known() -> None:
    """Each has an effect, or is listed with the reason why not (contract.md section 3)."""
    known = {key for key, (_, setting) in SCHEMA.items() if setting.in_file and not setting.own}
    assert known | set(IGNORED) | SILENT == set(_KEYS.split())
    assert not known & set(IGNORED)


def test_the_page_is_current() -> None:
    """`docs/configuration.md` is what the command prints."""
    command = [sys.executable, "-m", "flambeau.config.reference"]
    page = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    there = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert there.read_text() == page, f"run: {' '.join(command)} > docs/configuration.md"
