"""A first target, experiment and clients for a service of the user's own: what `holdfast init` writes."""

from pathlib import Path
from typing import Final

from chaos.errors import ExperimentError

TOPOLOGY: Final = """\
# Your system as Holdfast starts it. Lines marked CHANGE are yours; the rest runs as it is.
# For completion in your editor: holdfast schema topology > topology.schema.json
# yaml-language-server: $schema=topology.schema.json
name: my-service
url: app.url                    # CHANGE: where clients send requests; a balancer, once there is one

probe: {path: /}                # CHANGE: a cheap path that answers 2xx while the service is fine

roles:
  app:
    # CHANGE: the command that starts one instance in the foreground. Every instance has a port of its own:
    # ${port} here, or HOLDFAST_PORT in its environment.
    command: ["${python}", -m, http.server, "${port}", --bind, 127.0.0.1]
    count: 1                    # CHANGE: several, as soon as something in front of them spreads the requests
    ready: {http: /, within: 20s}          # CHANGE: answers 2xx once the instance can serve
    stop: {signal: TERM, grace: 10s}
    env: {VERSION: v1}
    # metrics: /metrics                         # Prometheus text, for `observe`
    # version: {http: /health, field: version}  # what a deploy is proven by

# What has to be read: named values, taken at the start and the end of each phase.
# observe:
#   in_flight: {metric: my_requests_in_flight, role: app, combine: sum}
# quiet_when: {observe: in_flight, is: 0}

# What exists at the end, for the checker `exactly_once`: one row {"f", "key", "value"} for each effect.
# final:
#   - {name: effects, schema: effects/1, command: ["${python}", dump.py, "${out}"]}
"""

EXPERIMENT: Final = """\
# What is done to the system, and what must hold meanwhile. Try it first without starting anything:
#   holdfast run experiment.yaml --dry-run
title: A killed instance comes back within five seconds
target: topology.yaml
load: {locustfile: locustfile.py, arrivals: 20/s}   # CHANGE: what your users do, as often as they do it
phases: {warmup: 2s, baseline: 5s, faults: 10s, recovery: 10s, quiet: 10s}
faults:
  # There is one instance so far, and nothing takes over for it: `all` says that this is meant.
  - kill: {role: app, all: true, restart_after: 1s}
    at: 1s
expect:
  - recovery: {max: 5s}
  - availability: {min: 50%}    # CHANGE: with several instances behind a balancer ask for `failed: {max: 0}`
# guardrails:
#   - error_rate: {max: 50%, over: 5s}     # abort, heal, exit 4
"""

LOCUSTFILE: Final = '''\
"""What clients do: Locust users, whose requests start on schedule whatever earlier ones do."""

from locust import task

from loadtests.client import HonestUser


class Visitor(HonestUser):
    """Each request is sent once and recorded; `f` names the operation in expectations and reports."""

    @task
    def look(self) -> None:
        """CHANGE: one thing that a user of yours does."""
        self.client.get("/", f="look")

    # An effect carries a key, so that `exactly_once` can find it in the final dump:
    #
    # @task
    # def order(self) -> None:
    #     self.client.post("/orders", f="order", body={"amount": 1}, key=str(uuid.uuid4()), value={"amount": 1})
'''

_FILES: Final = {"topology.yaml": TOPOLOGY, "experiment.yaml": EXPERIMENT, "locustfile.py": LOCUSTFILE}


def write_scaffold(folder: Path) -> tuple[Path, ...]:
    """Writes the three files into `folder` and gives back their paths.

    Raises:
        ExperimentError: one of them exists already, or the folder cannot be written; then nothing was written.
    """
    paths = {folder / name: text for name, text in _FILES.items()}
    if existing := [path for path in paths if path.exists()]:
        raise ExperimentError(
            [f"{path}: exists already; choose another folder: holdfast init DIR" for path in existing]
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExperimentError([f"{folder}: cannot be written: {error.strerror}"]) from error
    return tuple(paths)
