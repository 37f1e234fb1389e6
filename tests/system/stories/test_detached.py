"""Commands that nobody follows: what becomes of their streams, and that they outlive client and daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.labs.daemon import Cri, Cribd, crib, default_handler, default_shim, running_cribd, until

pytestmark = [pytest.mark.root, pytest.mark.system]


@pytest.fixture(params=["crun", "runc", "shim"])
def cribd(request: pytest.FixtureRequest) -> Iterator[Cribd]:
    """Each story has its own, as it ends it."""
    extra = default_shim() if request.param == "shim" else default_handler(request.param)
    with running_cribd(extra=extra) as daemon:
        yield daemon


async def test_a_detached_command_goes_on_when_client_and_daemon_are_gone(
    cribd: Cribd, tmp_path: Path
) -> None:
    async with cribd.story() as cri:
        box = await cri.run_container(await cri.run_pod("box"), "sleep", "1000")
        await cri.sh(box, "mkdir -p /tmp && chmod 777 /tmp")
        script = (
            "cat; touch /tmp/begun; until [ -e /tmp/go ]; do sleep 0.1; done; "
            'yes | head -c 1000000; echo "$?" >&2; echo "$(id -u) $A" > /tmp/done'
        )
        words = ("exec", "--detach", "-u", "1234", "-e", "A=well", "box", "--", "sh", "-c", script)
        done = crib(cribd, tmp_path, *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        await until(lambda: there(cri, box, "/tmp/begun"))
        cribd.kill()
        cribd.start()
        async with cribd.connect() as again:
            await again.sh(box, "touch /tmp/go")
            await until(lambda: there(again, box, "/tmp/done"))
            assert await again.sh(box, "cat /tmp/done") == "1234 well"
            for _ in range(3):
                assert crib(cribd, tmp_path, "exec", "-d", "box", "--", "sleep", "1000").returncode == 0
            assert (await again.execute(box, "ps")).out.count("sleep") == 4
            await again.stop_container(box)
        refused = crib(cribd, tmp_path, "exec", "-dt", "box", "--", "true")
        assert (refused.returncode, "--detach works only without" in refused.stderr) == (2, True)
    null = os.stat("/dev/null")
    assert (null.st_uid, null.st_mode & 0o777) == (0, 0o666)


async def there(cri: Cri, box: str, path: str) -> bool:
    return (await cri.execute(box, "test", "-e", path)).code == 0
