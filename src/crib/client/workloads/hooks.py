"""postStart and preStop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from crib.client.errors import ClientError, TimedOut
from crib.client.workloads.probers import get, run_command
from crib.manifest.behaviour_plan import ExecAction, HttpAction

if TYPE_CHECKING:
    from crib.client.workloads.probers import ProbeTarget
    from crib.manifest.behaviour_plan import HookAction

POST_START_SECONDS = 3600.0
"""That a postStart hook may take. Kubernetes has no limit; here nothing waits for ever."""


async def run_hook(target: ProbeTarget, action: HookAction, limit: float) -> str:
    """Run it for at most `limit` seconds; what went wrong, or nothing."""
    try:
        async with asyncio.timeout(limit):
            if isinstance(action, ExecAction):
                answer = await run_command(target, action, limit)
                return "" if answer.good else answer.text
            if isinstance(action, HttpAction):
                answer = await get(target, action)
                return "" if answer.good else answer.text
            await asyncio.sleep(action.seconds)
    except (TimeoutError, TimedOut):
        return f"it took longer than {limit:g} s"
    except (ClientError, OSError) as error:
        return str(error)
    return ""
