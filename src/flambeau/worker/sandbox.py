"""What a handler's process may do: levels `none`, `basic` and `strict` (docs/security.md).

Set before anything of the archive runs, while the process has one thread: Landlock binds threads.
"""

import contextlib
import ctypes
import errno
import os
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from flambeau.config import private_folder
from flambeau.errors import LoadError
from flambeau.ipc.messages import Load
from flambeau.worker import landlock, seccomp

_NO_NEW_PRIVS, _DROP_BOUNDING = 38, 24  # of prctl
_CAPABILITY_VERSION_3 = 0x20080522

_DEVICE_FILES = ("/dev/nvidia", "/dev/kfd", "/dev/dri")

_SYSTEM = tuple(
    map(
        Path,
        [
            "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/timezone",
            "/etc/mime.types", "/etc/ssl", "/etc/pki", "/etc/passwd", "/etc/group", "/etc/hosts",
            "/etc/nsswitch.conf", "/etc/fonts", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
            "/proc/sys/vm/overcommit_memory", "/sys/devices/system", "/sys/fs/cgroup",
        ],
    )
)  # fmt: skip
_NETWORK = tuple(map(Path, ["/etc/resolv.conf", "/etc/host.conf", "/etc/gai.conf"]))
_DEVICES = tuple(Path("/dev", name) for name in ("null", "zero", "full", "urandom", "random"))

_ALLOWED_VARIABLES = re.compile(
    r"PATH|LANG|LANGUAGE|LC_.*|TZ|PYTHON.*|LD_LIBRARY_PATH|VIRTUAL_ENV"
    r"|(OMP|MKL|KMP|GOMP|GOTO|OPENBLAS|NUMEXPR|VECLIB|ORT|OV|TOKENIZERS|TORCH|PYTORCH|ATEN)_.*"
    r"|TS_.*|CUDA_.*|NVIDIA_.*|HIP_.*|ROCR_.*|HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE|TRANSFORMERS_VERBOSITY"
    r"|RANK|.*_RANK|WORLD_SIZE|.*_WORLD_SIZE|MASTER_ADDR|MASTER_PORT"
)


def unavailable() -> str:
    """Why this machine has no level `strict`; empty where it has."""
    if sys.platform != "linux" or not seccomp.available():
        return "its processor's system calls are not known here (x86_64 and aarch64 are)"
    found = landlock.abi()
    if found < landlock.NEEDED_ABI:
        return f"the kernel has Landlock ABI {found}, {landlock.NEEDED_ABI} is needed (Linux 6.12)"
    return ""


def confine(load: Load, descriptor: int, *, forks: bool = False) -> None:
    """Put this process under the level that `load` asks for; `descriptor` is the server's socket.

    `forks` is for a template, whose workers call `no_forks`. Raises `LoadError` where the level
    cannot be had: a handler never runs with less than what was asked for.
    """
    if load.sandbox == "none":
        return
    _basic(descriptor)
    if load.sandbox != "strict":
        return
    if load.gpu is not None:
        raise LoadError(_refusal("GPUs need device files and calls that it does not leave"))
    if reason := unavailable():
        raise LoadError(_refusal(reason))
    try:
        _strict(load, forks=forks)
    except OSError as error:
        raise LoadError(_refusal(str(error))) from error


def no_forks(load: Load) -> None:
    """What a worker that its template forked has to give up beyond that."""
    if load.sandbox == "strict":
        seccomp.restrict(net=load.sandbox_net, forks=False)


def _refusal(reason: str) -> str:
    return f"the sandbox level strict cannot be had: {reason}. Set sandbox to basic to do without."


def _basic(descriptor: int) -> None:
    """What no archive misses: privileges by set-uid files, core files, others' descriptors."""
    _prctl(_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file holds requests
    with contextlib.suppress(PermissionError):
        os.setsid()  # its group is its own: what it signals there is itself
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number != descriptor and not _is_kept(number):
            with contextlib.suppress(OSError):
                os.close(number)


def _is_kept(descriptor: int) -> bool:
    """Whether a descriptor is a pipe or a GPU's, which the zygote's look at the devices left open."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith(("pipe:", *_DEVICE_FILES))
    except OSError:
        return False


def _strict(load: Load, *, forks: bool) -> None:
    folder = private_folder(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)  # of a process that had this number before
    folder.mkdir(mode=0o700)
    _scrub_environment(folder)
    # sys.path has the model's own environment; a folder that is not there yet is not missed
    python = {Path(each) for each in (sys.prefix, sys.base_prefix, *sys.path) if each}
    model = Path(load.model_dir).resolve()
    readable = {model, *python, *_SYSTEM, *(_NETWORK if load.sandbox_net else ())}
    _drop_capabilities()
    landlock.restrict(readable, [folder], _DEVICES, net=load.sandbox_net)
    seccomp.restrict(net=load.sandbox_net, forks=forks)


def _scrub_environment(folder: Path) -> None:
    """Leave the variables that are known to be needed; the others are wiped from memory, too."""
    environment = os.environ  # noqa: TID251  # a fork's only way to have another one
    kept = {
        name: value for name, value in environment.items() if _ALLOWED_VARIABLES.fullmatch(name)
    }
    kept |= {"HOME": str(folder), "TMPDIR": str(folder)}
    environment.clear()
    environment.update(kept)  # as copies: what the process was started with is not used any more
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start, env_end
    if end > start > 0:
        ctypes.memset(start, 0, end - start)
    tempfile.tempdir = None


def _drop_capabilities() -> None:
    """A root's process keeps its user and nothing else."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        if libc.prctl(_DROP_BOUNDING, capability, 0, 0, 0) != 0:
            break  # the last one is behind us, or this is no root
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno() or errno.EPERM, "capabilities cannot be dropped")


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")
