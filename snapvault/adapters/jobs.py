# SPDX-License-Identifier: Apache-2.0
"""Jobs as child processes: one that crashes, leaks or is killed takes nothing else along."""

import pickle
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from snapvault import clock
from snapvault.adapters.spawning import Process, send_signal, spawn_job
from snapvault.errors import EXIT_BUG, SnapVaultError
from snapvault.model.runs import Failure, Run, RunState
from snapvault.ports.events import Events
from snapvault.ports.jobs import Order

CHILD: Final = ("-m", "snapvault.daemon.child")
_KILL_PATIENCE: Final = 10.0  # seconds that the kernel may take to end what was killed


@dataclass(slots=True)
class _Job:
    order: Order
    process: Process
    follower: threading.Thread


class ChildJobs:
    """Starts `python -m snapvault.daemon.child` for each order; `Jobs` of the port.

    The order goes to its stdin, pickled, and the run as it ended comes from its stdout: both
    ends are this same installation. Its stderr is ours. `variables` is its whole environment.
    When our own process dies, it is asked to end.
    """

    def __init__(
        self,
        events: Events,
        *,
        variables: Mapping[str, str],
        command: Sequence[str] = (sys.executable, *CHILD),
    ) -> None:
        self._events = events
        self._variables = variables
        self._command = tuple(command)
        self._jobs: dict[str, _Job] = {}
        self._over: queue.SimpleQueue[Run] = queue.SimpleQueue()
        # An Event would not do: a signal's handler that sets one while its own thread is inside
        # `wait` blocks for ever. This queue's `put` may interrupt its `get`.
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    def start(self, order: Order) -> None:
        """Start a job. One that cannot even be started ends as failed with the next `ended`."""
        process = None
        try:
            content = pickle.dumps(order)
            process = spawn_job(self._command, self._variables)
            follower = threading.Thread(
                target=self._follow, args=(order, process, content), name=f"job-{order.run.id}"
            )
            follower.daemon = True
            follower.start()
        except Exception as error:  # noqa: BLE001 - too many threads, say: the scheduler goes on
            if process is not None:
                _end_now(process)
            self._over.put(_failed(order.run, _unstarted(error)))
            self.wake()
            return
        self._jobs[order.run.id] = _Job(order, process, follower)

    def ended(self) -> Sequence[Run]:
        """Return the runs that ended since the last call, as they ended; does not wait."""
        runs = []
        with suppress(queue.Empty):
            while True:
                runs.append(self._over.get_nowait())
        for run in runs:
            self._jobs.pop(run.id, None)
        return runs

    def running(self) -> Sequence[Order]:
        """Return the orders of the jobs at work, oldest first."""
        return [job.order for job in self._jobs.values()]

    def wait(self, seconds: float) -> None:
        """Wait until a job ends, `wake` is called, or this many seconds went by."""
        with suppress(queue.Empty):
            self._woken.get(timeout=seconds)
            for _ in range(self._woken.qsize()):
                self._woken.get_nowait()

    def wake(self) -> None:
        """End a `wait`; safe from other threads and from handlers of signals."""
        self._woken.put(None)

    def stop(self, seconds: float) -> Sequence[Run]:
        """Ask all jobs to end, kill those that have not after so many seconds; return them all."""
        deadline = clock.monotonic() + seconds
        for job in self._jobs.values():
            send_signal(job.process, signal.SIGTERM)
        for job in self._jobs.values():
            job.follower.join(max(0.0, deadline - clock.monotonic()))
        for job in self._jobs.values():
            if job.follower.is_alive():
                self._events.warn(
                    "job.killed",
                    f'backup of "{job.order.source.name}" did not end in time and was killed',
                    run=job.order.run.id,
                )
                send_signal(job.process, signal.SIGKILL)
        for job in self._jobs.values():
            job.follower.join(_KILL_PATIENCE)
        return self.ended()

    def _follow(self, order: Order, process: Process, content: bytes) -> None:
        """Give a job its order, and wait for its end; a thread of its own."""
        try:
            with process:
                said, _ = process.communicate(content)
            run = _told(said) or _silent(order.run, process.returncode)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the job is not at work any more
            _end_now(process)
            failure = Failure(f"could not follow the job: {error}", None, EXIT_BUG, retryable=True)
            run = _failed(order.run, failure)
        self._over.put(run)
        self.wake()


def _told(said: bytes) -> Run | None:
    """Return the run that a child reported; None if it died before."""
    try:
        run = pickle.loads(said)  # noqa: S301 - from our own child, over a pipe of our own
    except Exception:  # noqa: BLE001 - half a pickle raises nearly anything
        return None
    return run if isinstance(run, Run) and run.state is not RunState.RUNNING else None


def _silent(run: Run, status: int) -> Run:
    """Return the run of a child that died without a word."""
    if status < 0:
        how = f"was killed by {signal.Signals(-status).name}"
        if -status == signal.SIGKILL:
            how += ", by hand or for want of memory"
        failure = Failure(f"the backup's process {how}", None, 128 - status, retryable=True)
        return replace(_failed(run, failure), state=RunState.INTERRUPTED)
    failure = Failure(
        f"the backup's process ended with status {status} and said nothing",
        "Its log, and what it wrote to the service's own, may say why.",
        status or EXIT_BUG,
        retryable=False,
    )
    return _failed(run, failure)


def _unstarted(error: Exception) -> Failure:
    """Return why a job could not be started; the machine may have room for it soon."""
    if isinstance(error, SnapVaultError):
        return Failure(str(error), error.hint, error.exit_status, retryable=True)
    hint = "The host may be out of memory, processes or threads; see TasksMax of the service."
    return Failure(f"could not start the job: {error}", hint, EXIT_BUG, retryable=True)


def _end_now(process: Process) -> None:
    process.kill()
    with process:  # closes its pipes and waits for it
        return


def _failed(run: Run, failure: Failure) -> Run:
    return replace(run, state=RunState.FAILED, ended=clock.now(), failure=failure)
