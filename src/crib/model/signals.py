"""Which signal StopContainer sends first."""

from __future__ import annotations

import signal

CRI_SIGNALS = (
    *(
        "",
        "ABRT",
        "ALRM",
        "BUS",
        "CHLD",
        "CLD",
        "CONT",
        "FPE",
        "HUP",
        "ILL",
        "INT",
        "IO",
        "IOT",
        "KILL",
        "PIPE",
    ),
    *("POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU"),
    *("URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN"),
    *(f"RTMIN+{n}" for n in range(1, 16)),
    *(f"RTMAX-{n}" for n in range(14, 0, -1)),
    "RTMAX",
)
"""Names by number of the CRI's Signal enum (0 is the runtime's default)."""
_LONGEST = len("SIGRTMIN+15") + 4


def signal_number(name: str) -> int:
    """The number of SIGTERM, TERM, 15, RTMIN+3 …; 0 for what is no signal (signal(7))."""
    if len(name) > _LONGEST or not name.isascii():
        return 0  # an image may say anything: thousands of digits are no int for Python
    text = name.upper().removeprefix("SIG")
    if text.isdecimal():
        return int(text) if 0 < int(text) <= 64 else 0
    base, sign, offset = text.partition("+") if "+" in text else text.partition("-")
    if base + sign in ("RTMIN+", "RTMAX-") and offset.isdecimal():
        number = signal.SIGRTMIN + int(offset) if base == "RTMIN" else signal.SIGRTMAX - int(offset)
        return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0
    try:
        return int(signal.Signals[f"SIG{text}"])
    except KeyError:
        return 0


def stop_signal(configured: int, image: str) -> int:
    """The container's own (CRI Signal enum), else its image's STOPSIGNAL, else SIGTERM."""
    if 0 < configured < len(CRI_SIGNALS):
        return signal_number(CRI_SIGNALS[configured]) or signal.SIGTERM
    return (signal_number(image) if image else 0) or signal.SIGTERM


def cri_signal(number: int) -> int:
    """The CRI's Signal enum for a signal number; 0 for one that the CRI does not know."""
    for value, name in enumerate(CRI_SIGNALS):
        if name and signal_number(name) == number:
            return value
    return 0
