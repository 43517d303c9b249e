"""A seccomp filter, written instruction by instruction: system calls that a handler does not need.

What is refused fails with EPERM, as if a privilege were missing; the process lives on.
"""

import ctypes
import errno
import os
import platform
import struct

_AARCH64, _X86_64 = "aarch64", "x86_64"
_AUDIT_ARCH = {_X86_64: 0xC000003E, _AARCH64: 0xC00000B7}
_X32_BIT = 0x40000000

_SHARED = {
    # mounts (428 to 433, 442, 467), io_uring, another's descriptors and memory, quotas, attributes
    *range(428, 434), 442, 467, 425, 426, 427, 438, 440, 448, 443, 452, 463, 466,
}  # fmt: skip
"""Numbers from 424 on are the same everywhere."""

_DENIED = {
    _X86_64: {
        101, 310, 311, 312,  # ptrace, process_vm_readv and _writev, kcmp
        165, 166, 155, 161, 303, 304, 300,  # mount, umount2, pivot_root, chroot, handles, fanotify
        321, 248, 249, 250, 298, 323,  # bpf, keys, perf_event_open, userfaultfd
        246, 320, 175, 313, 176, 308, 272,  # kexec, modules, setns, unshare
        59, 322, 57, 58,  # execve, execveat, fork, vfork
        90, 91, 268, 92, 93, 94, 260, 133, 259,  # modes, owners, device files
        132, 235, 261, 280, 188, 189, 190, 197, 198, 199,  # times and extended attributes
        105, 106, 113, 114, 116, 117, 119, 122, 123, 126,  # users, groups, capabilities
        169, 167, 168, 170, 171, 163, 164, 227, 159, 305, 103, 179,  # the machine
        172, 173, 154, 135, 279, 256, 212,  # ports, ldt, personality, pages
        141, 142, 144, 314, 251,  # priorities, of other processes, too
        29, 30, 31, 64, 66, 68, 69, 70, 240,  # System V memory, semaphores and queues; mq_open
    },
    _AARCH64: {
        117, 270, 271, 272,
        40, 39, 41, 51, 264, 265, 262,
        280, 217, 218, 219, 241, 282,
        104, 294, 105, 273, 106, 268, 97,
        221, 281,
        52, 53, 54, 55, 33,
        88, 5, 6, 7, 14, 15, 16,
        143, 144, 145, 146, 147, 149, 151, 152, 159, 91,
        142, 224, 225, 161, 162, 89, 170, 112, 171, 266, 116, 60,
        92, 239, 238,
        140, 118, 119, 274, 30,
        194, 195, 196, 190, 191, 186, 188, 189, 180,
    },
}  # fmt: skip

_CLONE = {_X86_64: 56, _AARCH64: 220}
_SOCKET = {_X86_64: 41, _AARCH64: 198}
_PRLIMIT = {_X86_64: 302, _AARCH64: 261}
_IOCTL = {_X86_64: 16, _AARCH64: 29}
_CLONE3 = 435
_SECCOMP = {_X86_64: 317, _AARCH64: 277}

_CLONE_THREAD = 0x10000
_FAMILIES = (2, 10, 16)  # IPv4, IPv6, netlink, which getaddrinfo asks; no paths of other services
_PUSH_INPUT = 0x5412  # TIOCSTI

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE = _ERRNO | errno.EPERM


def available() -> bool:
    """Whether the numbers of this machine's system calls are known here."""
    return platform.machine() in _AUDIT_ARCH


def restrict(*, net: bool, forks: bool) -> None:
    """Refuse this process, all its threads and children, what is listed here. Raises `OSError`.

    `net` leaves IP sockets; else there are none but pairs. `forks` leaves child processes.
    """
    program = b"".join(_program(platform.machine(), net=net, forks=forks))
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SECCOMP[platform.machine()]
    if libc.syscall(number, 1, ctypes.c_ulong(1), header) != 0:  # a filter, for all threads
        code = ctypes.get_errno() or errno.EINVAL
        raise OSError(code, f"seccomp: {os.strerror(code)}")


def _program(machine: str, *, net: bool, forks: bool) -> list[bytes]:
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == _X86_64:
        steps += [_step(_AT_LEAST, _X32_BIT, 0, 1), _step(_RETURN, _REFUSE)]
    # the C library asks clone3 first, whose flags no filter can see, and then clone
    steps += _refuse(_CLONE3, _ERRNO | errno.ENOSYS)
    denied = _SHARED | _DENIED[machine]
    if forks and machine == _X86_64:
        denied = denied - {57, 58}
    for number in sorted(denied):
        steps += _refuse(number)
    if not forks:
        steps += _unless(_CLONE[machine], _FIRST, [_step(_ANY_BIT, _CLONE_THREAD, 1, 0)])
    if net:
        tests = [_step(_EQUAL, each, len(_FAMILIES) - i, 0) for i, each in enumerate(_FAMILIES)]
        steps += _unless(_SOCKET[machine], _FIRST, tests)
    else:
        steps += _refuse(_SOCKET[machine])
    steps += _unless(_PRLIMIT[machine], _FIRST, [_step(_EQUAL, 0, 1, 0)])  # others' limits
    steps += _unless(_IOCTL[machine], _SECOND, [_step(_EQUAL, _PUSH_INPUT, 0, 1)])
    return [*steps, _step(_RETURN, _ALLOW)]


def _refuse(number: int, how: int = _REFUSE) -> list[bytes]:
    return [_step(_EQUAL, number, 0, 1), _step(_RETURN, how)]


def _unless(number: int, argument: int, tests: list[bytes]) -> list[bytes]:
    """Refuse a call unless one of the tests of an argument jumps over the refusal."""
    body = [_step(_LOAD, argument), *tests, _step(_RETURN, _REFUSE), _step(_LOAD, _NUMBER)]
    return [_step(_EQUAL, number, 0, len(body)), *body]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
