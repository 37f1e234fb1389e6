"""How the program ends: one line on standard error for every expected failure, and an exit code.

0 done, 1 failed, 2 wrong usage; 130 and 143 by SIGINT and SIGTERM, 141 when nobody reads the output any more
(128 and the signal, as shells have it). `crib exec` gives its command's instead.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from crib.cli.session import CommandError, say


def ending(command: Callable[[], object]) -> int:
    """Run the command and give the program's exit code."""
    try:
        result = command()
        sys.stdout.flush()  # now, while a reader that has gone can still be told
    except KeyboardInterrupt:
        return 130
    except asyncio.CancelledError:  # SIGTERM, see Session.run
        return 143
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError):
            raise  # typer makes a SystemExit of a BrokenPipeError, and of nothing else
        # the reader of our output has gone; nothing more can be said, and Python must not try at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        if message:
            say(f"crib: {message}")
        return int(getattr(error, "exit_code", 1))
    return result if isinstance(result, int) else 0


def _message(error: Exception) -> str | None:
    """The line for an expected failure; None for what is a fault of this program."""
    if isinstance(error, CommandError):
        return str(error)
    if hasattr(error, "format_message"):  # what typer raises for wrong usage; its classes are private
        text = " ".join(error.format_message().split())
        context = getattr(error, "ctx", None)
        return f"{text} (see {context.command_path} --help)" if text and context else text
    from crib.cli.manifest.fields import ManifestError
    from crib.client import ClientError

    if isinstance(error, (ClientError, ManifestError)):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        return " ".join(f"{error.strerror or error} {error.filename or ''}".split())
    return None
