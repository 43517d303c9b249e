"""Wall clocks for T23: who may read one, and a process tree whose wall clock can be set."""

import ast
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "flambeau"

ALLOWED = {
    "archive/cache.py": "when an unpacked archive was last used, across restarts, in days",
    "archive/manifest.py": "the date in a manifest",
    "cli/bench.py": "the date of a report",
    "frontend/tls.py": "certificates begin and end at dates",
    "handlers/ts/metrics/metric.py": "a metric line's timestamp, as in TorchServe",
    "protocols/describe.py": "a worker's start as a date, made of its age on the monotonic clock",
    "serving/snapshots.py": "a snapshot's name",
    "serving/token_file.py": "a token's expiration, which is a date",
    "serving/tokens.py": "a token's expiration, which is a date",
    "telemetry/logging.py": "a log line's timestamp",
    "telemetry/rolling.py": "log files roll at midnight",
}
"""Files below src/flambeau that may read the wall clock, and what for; none of it is a wait."""

_OF_TIME = {"time", "time_ns"}
_OF_DATETIME = {"now", "utcnow", "today"}

# Adds what a file says, in seconds, to what the wall clock tells; other clocks stay.
_SHIM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *shift;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TRUST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) shift = found;
    if (file >= 0) close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *shift;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


class WallClock:
    """The wall clock of processes that are started with `environment`; needs a C compiler."""

    def __init__(self, folder: Path) -> None:
        self._shift = folder / "shift"
        self._shift.write_bytes(bytes(8))
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(_SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self.environment = {"LD_PRELOAD": str(library), "TRUST_CLOCK": str(self._shift)}

    def jump(self, seconds: int) -> None:
        """Set it so many seconds off the machine's."""
        with self._shift.open("r+b") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


def readers() -> dict[str, list[int]]:
    """Lines that read the wall clock, by file below src/flambeau."""
    found: dict[str, list[int]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if _reads_wall_clock(node):
                found.setdefault(str(file.relative_to(SOURCE)), []).append(
                    getattr(node, "lineno", 0)
                )
    return found


def _reads_wall_clock(node: ast.AST) -> bool:
    """`time.time` and its like, called or handed on; `datetime.now` and its like."""
    if isinstance(node, ast.ImportFrom) and node.module == "time":
        return any(alias.name in _OF_TIME for alias in node.names)
    if isinstance(node, ast.Call) and not node.args:  # else they only write down what is given
        return getattr(node.func, "attr", "") in {"localtime", "gmtime", "ctime", "asctime"}
    if not isinstance(node, ast.Attribute):
        return False
    owner = node.value
    name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
    if name == "time":
        return node.attr in _OF_TIME
    return name in {"datetime", "date"} and node.attr in _OF_DATETIME
