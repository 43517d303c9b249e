"""Keys and variables of TorchServe's that have no effect here, and why."""

IGNORED: dict[str, str] = dict.fromkeys(
    [
        "number_of_netty_threads",
        "netty_client_threads",
        "prefer_direct_buffer",
        "use_native_io",
        "io_ratio",
        "plugins_path",
        "async_logging",
        "debug",
    ],
    "for TorchServe's JVM only",
) | {
    "cpp_log_config": "for TorchServe's C++ workers only",
    "cpu_launcher_enable": "workers are forked, not launched by torch.backends.xeon",
    "cpu_launcher_args": "workers are forked, not launched by torch.backends.xeon",
    "system_metrics_cmd": "the server itself reads CPU, memory, disk and GPUs",
    "python": "workers run the interpreter that started the server",
    "model_server_home": "Flambeau is found where it is installed",
}
"""Keys of TorchServe's that can have no effect here, and why."""

IGNORED_VARIABLES: dict[str, str] = {
    "TS_MODEL_SERVER_HOME": IGNORED["model_server_home"],
    "SM_TELEMETRY_LOG": "SageMaker's telemetry lines are not written",
    "TS_BENCHMARK": "workers are profiled from outside, for example with py-spy",
}
"""Environment variables of TorchServe's that have no effect here, and why (section 2.6)."""

SILENT = frozenset(["version", "tsConfigFile"])
"""What TorchServe writes into a snapshot file and nobody sets."""
