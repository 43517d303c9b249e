"""What can be said of a key of the schema."""

import msgspec

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


class Setting(msgspec.Struct, frozen=True):
    """What the schema says of a key, beside its type and default.

    `variable` is the environment variable that sets it; None stands for `TS_` and the key in upper
    case, the empty text for none. `unused` says why the key has no effect, for the warning. A key
    with `in_file` false comes from the environment only.
    """

    meaning: str
    low: float = 0
    high: float = INT32_MAX
    unit: str = ""
    choices: tuple[str, ...] = ()
    regex: bool = False
    variable: str | None = None
    unused: str = ""
    own: bool = False
    in_file: bool = True
