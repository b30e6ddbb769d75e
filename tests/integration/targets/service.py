"""A small real service for tests of drivers: serves, misbehaves as its environment says, and ends on SIGTERM.

Modes (MODE): serve, exit (with status 3), never-ready, die-soon (after it was asked once), stubborn (ignores SIGTERM).
OFFSPRING=1 starts a grandchild that ignores SIGTERM, leaves the session and forgets its environment.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODE = os.environ.get("MODE", "serve")
INSTANCE = os.environ["HOLDFAST_INSTANCE"]
KEPT = Path(os.environ["HOLDFAST_DATA_DIR"]) / "kept"
stage = [os.environ.get("STAGE", "open")]
posts: list[str] = []

GRANDCHILD = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid()
print("grandchild", flush=True)
while True:
    signal.alarm(120)  # should the test itself be killed
    signal.pause()
"""


def say(text: str) -> None:
    """A line in the log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/readyz":
            self._answer(503 if MODE == "never-ready" else 200, {"ready": MODE != "never-ready"})
        elif self.path == "/healthz":
            env = {key: value for key, value in os.environ.items() if key.startswith(("HOLDFAST_", "GIVEN", "OWN"))}
            self._answer(200, {"version": os.environ.get("VERSION", "v0"), "env": env, "argv": sys.argv[1:]})
        elif self.path == "/status":
            self._answer(200, {"now": {"stage": stage[0], "posts": len(posts)}})
        elif self.path == "/metrics":
            number = INSTANCE.rpartition("-")[2]
            text = (
                "# TYPE jobs gauge\n"
                f'jobs{{state="queued",node="{INSTANCE}"}} {number}\njobs{{state="done",node="{INSTANCE}"}} 10\n'
                "# TYPE rare counter\n"
            )
            self._send(200, text.encode())
        elif self.path == "/kept":
            self._answer(200, {"kept": KEPT.stat().st_size if KEPT.exists() else 0})
        elif self.path == "/die":
            os._exit(7)
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.path == "/kept":
            self._keep()
            return
        if "stage" in body:
            stage[0] = body["stage"]
        posts.append(self.path)
        self._answer(200 if body.get("accept", True) else 409, {"stage": stage[0]})

    def _keep(self) -> None:
        """Appends a page to a file in the data folder."""
        try:
            with KEPT.open("ab", buffering=0) as file:
                file.write(b"k" * 4096)
        except OSError as error:
            self._answer(507, {"errno": error.errno})
        else:
            self._answer(200, {"kept": KEPT.stat().st_size})

    def _answer(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class calls it so
        say(format % args)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def main() -> None:
    """Serves until it is told to end."""
    say(f"{INSTANCE} begins in mode {MODE}")
    if MODE == "exit":
        say("no database to be found")
        sys.exit(3)
    if os.environ.get("OFFSPRING"):
        subprocess.Popen([sys.executable, "-c", GRANDCHILD, *sys.argv[1:]], env={}, cwd="/")
    server = Server(("127.0.0.1", int(os.environ["HOLDFAST_PORT"])), Handler)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    ready_file = Path(os.environ["HOLDFAST_READY_FILE"])
    partial = ready_file.with_suffix(".partial")
    token = f"token-of-{INSTANCE}-{os.getpid()}"
    own = {f"token_{number}": f"{token}-for-{number}" for number in (1, 2)}
    partial.write_text(json.dumps({"token": token, "port": server.server_port, **own}))
    partial.rename(ready_file)
    server.serve_forever(poll_interval=0.02)
    say(f"{INSTANCE} ends in order")


if __name__ == "__main__":
    main()
