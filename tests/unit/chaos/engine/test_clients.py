"""Client processes: what they say is heard, and how they end is known; with real processes."""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from chaos.engine import clients
from chaos.engine.clients import Client, ClientCommand
from chaos.errors import TargetError
from chaos.processes import Identity, own_environment

Heard = list[tuple[str, Mapping[str, Any]]]
POLITE = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print('{"load": "ready"}', flush=True)
print('{"load": "status", "ok": 3}', flush=True)
print("a print of the user's own", flush=True)
print("[1, 2]", flush=True)
print("x" * 100_000, flush=True)
signal.sigwait({signal.SIGTERM})
print('{"load": "finished", "ok": 7}', flush=True)
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"load": "ready"}', flush=True)
print('{"load": "status", "ok": 3}', flush=True)
while True:
    signal.alarm(60)  # should the test itself be killed
    signal.pause()
"""


class Names:
    """Registers nothing; the run's real roster is tested elsewhere."""

    run_id = "clients"

    def add(self, name: str, identity: Identity) -> None:
        """Takes note of nobody."""


async def start(script: str, run_dir: Path, heard: Heard) -> Client:
    """A client process that runs `script`."""
    command = ClientCommand(name="load", argv=(sys.executable, "-c", script))
    return await Client.start(
        command,
        env=own_environment(),
        run_dir=run_dir,
        registrar=Names(),
        listener=lambda _client, word, said: heard.append((word, said)),
    )


async def test_a_client_is_heard_from_ready_to_its_last_word(tmp_path: Path) -> None:
    """Lines of the protocol are told on; what a user prints goes into the log; a line without end does no harm."""
    heard: Heard = []
    client = await start(POLITE, tmp_path, heard)
    await client.wait_ready(within_s=10)

    assert await client.finish() == (0, {"ok": 7})
    assert heard == [("ready", {}), ("status", {"ok": 3}), ("finished", {"ok": 7})]
    assert "a print of the user's own\n[1, 2]" in client.log.read_text()


async def test_a_client_that_dies_before_it_is_ready_is_an_error_with_its_log(tmp_path: Path) -> None:
    """The end of its standard error is part of the message."""
    client = await start("import sys; print('no users here', file=sys.stderr); sys.exit(64)", tmp_path, [])

    with pytest.raises(TargetError, match=r"(?s)load exited with 64; the end of its log .*load\.log.*no users here"):
        await client.wait_ready(within_s=10)
    assert (await client.finish())[0] == 64


async def test_a_client_that_is_never_ready_is_an_error_after_its_limit(tmp_path: Path) -> None:
    """It says nothing at all."""
    client = await start("import signal; signal.alarm(60); signal.pause()", tmp_path, [])

    with pytest.raises(TargetError, match=r"load is not ready after 0\.05 s"):
        await client.wait_ready(within_s=0.05)
    await client.finish()


async def test_a_client_that_does_not_end_is_killed_and_its_newest_counts_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores SIGTERM; the limit is shortened for the test."""
    monkeypatch.setattr(clients, "FINISH_WITHIN_S", 0.1)
    heard: Heard = []
    client = await start(STUBBORN, tmp_path, heard)
    await client.wait_ready(within_s=10)

    returncode, said = await client.finish()
    assert returncode == -signal.SIGKILL
    assert said in ({"ok": 3}, {})


async def test_a_client_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    """No such program."""
    with pytest.raises(TargetError, match="load cannot be started"):
        await Client.start(
            ClientCommand(name="load", argv=("/no/such/program",)),
            env={},
            run_dir=tmp_path,
            registrar=Names(),
            listener=lambda *_: None,
        )


async def test_a_client_knows_which_run_it_is_part_of(tmp_path: Path) -> None:
    """By the same mark as every process of a run; what it sends can be told from that of other runs."""
    heard: Heard = []
    word = """{"load": "status", "run": os.environ["HOLDFAST_RUN_ID"]}"""
    said = f"import json, os; print(json.dumps({word}), flush=True)"
    client = await start(said, tmp_path, heard)
    await client.exited()
    await client.finish()

    assert heard == [("status", {"run": Names.run_id})]
