"""An instance of a target that stays up may need longer to start than everything else needs to be cleared."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

from chaos.leftovers import HEAL_LIMIT_S, clean_up
from chaos.undo import pending
from metrics.events import read_events

DIES = """
import sys
from pathlib import Path
from chaos.roster import Roster
from chaos.undo import UndoLog, start_step
run_dir = Path(sys.argv[1])
Roster(run_dir, run_id="dead", socket=chr(0) + sys.argv[2]).close()
UndoLog(run_dir).record("kill-1", [start_step("portal-1")])
"""


def answer_the_second_time(listening: socket.socket, asked: list[str]) -> None:
    """A holder whose instance is still starting when it is asked first, and ready when it is asked again."""
    first, _ = listening.accept()
    asked.append(first.makefile().readline())
    second, _ = listening.accept()
    asked.append(second.makefile().readline())
    second.sendall(b"{}\n")
    for connection in (first, second):
        connection.close()


def test_who_is_not_ready_again_so_soon_is_asked_for_once_more_when_all_else_is_cleared(tmp_path: Path) -> None:
    """The first question is never answered: after its time the second one is, and nothing is left or pending."""
    name = f"slow-holder-{tmp_path.parent.name}"
    asked: list[str] = []
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path), name], check=True, timeout=30)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("\0" + name)
        listening.listen()
        holder = threading.Thread(target=answer_the_second_time, args=(listening, asked))
        holder.start()
        left = clean_up(tmp_path, by="heal")
        holder.join(timeout=HEAL_LIMIT_S)

    assert left == ()
    assert [json.loads(one)["instance"] for one in asked] == ["portal-1", "portal-1"]
    assert pending(tmp_path) == ()
    acted, ended = read_events(tmp_path)
    assert (acted.data["undone"], ended.data["left"]) == (["portal-1 started"], [])
