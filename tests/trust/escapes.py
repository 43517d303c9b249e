"""A handler that tries to get out of its process, and says which ways were open."""

ESCAPES = '''
import ctypes, json, os, resource, signal, socket, stat, subprocess, sys

LOG = None

def call(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def write(path):
    with open(path, "ab") as file:
        file.write(b"x")

def connect(family, kind, address):
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        sock.connect(address)
        sock.send(b"x")

def bind():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()

def link(target):
    name = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"link-{os.getpid()}")
    try:
        os.symlink(target, name)
        read(name)
    finally:
        os.unlink(name)

def memfd():
    number = os.memfd_create("x")
    try:
        os.write(number, b"#!/bin/sh\\nexit 0\\n")
        subprocess.run([f"/proc/self/fd/{number}"], check=False, pass_fds=[number])
    finally:
        os.close(number)

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def core():
    if resource.getrlimit(resource.RLIMIT_CORE)[0]:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))

def extra_descriptor():
    others = [n for n in range(3, 512) if n not in own() and is_open(n)]
    if not others:
        raise OSError("none")

def is_open(number):
    try:
        os.fstat(number)
        return True
    except OSError:
        return False

def own():
    """The socket, the pipes of the output, and the log, where faulthandler writes."""
    return [n for n in range(3, 512) if is_open(n) and expected(n)]

def expected(number):
    found = os.fstat(number)
    sort = found.st_mode
    return stat.S_ISSOCK(sort) or stat.S_ISFIFO(sort) or (found.st_dev, found.st_ino) == LOG

def environment():
    if not any("canary" in value for value in os.environ.values()):
        raise OSError("unseen")

def original_environment():
    with open("/proc/self/environ", "rb") as file:
        if b"canary" not in file.read():
            raise OSError("unseen")

def tries(told):
    parent, server, sibling = os.getppid(), told["server"], told["sibling"]
    here = os.getcwd()
    zeros = ctypes.create_string_buffer(256)
    return {
        "descriptor": extra_descriptor,
        "read-key": lambda: read(told["key"]),
        "read-shadow": lambda: read("/etc/shadow"),
        "read-other-model": lambda: read(told["other"]),
        "list-root": lambda: os.listdir("/"),
        "write-model": lambda: write(os.path.join(here, "new.txt")),
        "write-store": lambda: write(told["key"] + ".new"),
        "write-home": lambda: write(told["home"]),
        "symlink": lambda: link(told["key"]),
        "chmod-store": lambda: os.chmod(told["key"], 0o600),
        "chmod-model": lambda: os.chmod(here, 0o755),
        "utime-store": lambda: os.utime(told["key"]),
        "truncate": lambda: os.truncate(told["key"], 3),
        "tcp": lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", told["port"])),
        "udp": lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 9)),
        "raw-packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
        "bind": bind,
        "unix-path": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, told["socket"]),
        "unix-abstract": lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, told["abstract"]),
        "kill-parent": lambda: os.kill(parent, 0),
        "kill-server": lambda: os.kill(server, 0),
        "kill-sibling": lambda: os.kill(sibling, 0),
        "limit-server": lambda: resource.prlimit(server, resource.RLIMIT_NOFILE),
        "parent-memory": lambda: read(f"/proc/{parent}/mem"),
        "parent-environment": lambda: read(f"/proc/{parent}/environ"),
        "server-descriptors": lambda: os.listdir(f"/proc/{server}/fd"),
        "ptrace": lambda: call(told["calls"][0], 16, sibling, 0, 0),
        "process-vm": lambda: call(told["calls"][1], parent, zeros, 0, zeros, 0, 0),
        "keyctl": lambda: call(told["calls"][2], 0, -3, 1),
        "unshare": lambda: call(told["calls"][3], 0x10000000),
        "io-uring": lambda: call(425, 1, zeros),
        "bpf": lambda: call(told["calls"][4], 0, zeros, 72),
        "exec": lambda: subprocess.run(["/bin/sh", "-c", "exit 0"], check=True),
        "memfd-exec": memfd,
        "fork": fork,
        "core": core,
        "environment": environment,
        "environment-block": original_environment,
        "setuid": lambda: os.setuid(os.getuid() or 65534),
    }

def handle(data, context):
    if data is None:
        return None
    row = data[0].get("body") or data[0].get("data")
    told = row if isinstance(row, dict) else None
    if told is None:
        return ["well"] * len(data)
    tmp = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"own-{os.getpid()}")
    with open(tmp, "w") as file:
        file.write("x")
    os.unlink(tmp)
    global LOG
    LOG = tuple(told["log"])
    open_ways = []
    attempts = tries(told)
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception:
            continue
        open_ways.append(name)
    return [{"tried": len(attempts), "open": open_ways, "headers": context.get_all_request_header(0),
             "variables": dict(os.environ)}]
'''.replace("\\\\", "\\")

NUMBERS = {
    "x86_64": (101, 310, 250, 272, 321),
    "aarch64": (117, 270, 219, 97, 280),
}
"""Of ptrace, process_vm_readv, keyctl, unshare and bpf."""
