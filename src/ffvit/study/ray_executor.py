"""Runs on a Ray cluster: each a task in a process of its own, wherever the GPUs it asks for are free.

The study folder must lie on a path that all machines share. A run whose machine dies is begun again by Ray on another,
and goes on from its checkpoint there.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffvit.config.hardware import Hardware
from ffvit.errors import DeviceError, MissingPackageError
from ffvit.run_folder import Config
from ffvit.study.jobs import Job
from ffvit.study.local_executor import log_name
from ffvit.study.run_job import Outcome, command, launched, run_job

CONNECT = 10.0
"""Seconds to wait for the cluster to answer."""

DEATHS = 5
"""Machines that may die under a run before it counts as failed."""


class Cluster:
    """Hands runs to a Ray cluster.

    Args:
        ray: The module, connected.
        hardware: What one run computes on.
        threads: Processor threads a run.
        logs: The folder of the log files, on the shared path.
    """

    def __init__(self, ray: Any, hardware: Hardware, threads: int, logs: Path) -> None:
        self._ray, self._logs, self._threads = ray, logs.resolve(), threads
        there = ray.cluster_resources()
        on_gpu = hardware.accelerator == "cuda" or (hardware.accelerator == "auto" and there.get("GPU", 0) > 0)
        self._bundle: dict[str, float] = {"CPU": threads, "GPU": hardware.devices} if on_gpu else {"CPU": threads}
        self.at_once = int(min(there.get(kind, 0) // (asked * hardware.nodes) for kind, asked in self._bundle.items()))
        if self.at_once < 1 or _machines(ray) < hardware.nodes:
            asked = f"{hardware.devices} GPUs" if on_gpu else f"{threads} processor cores"
            has = _in_words(ray)
            ray.shutdown()
            raise DeviceError(
                f"--cluster: no place for a run that asks for {asked} on {hardware.nodes} machines: the cluster has {has}"
            )
        # A run over several machines is seen to by a task that needs nothing itself.
        here = self._bundle if hardware.nodes == 1 else {"CPU": 0}
        self._task = ray.remote(
            num_cpus=here["CPU"],
            num_gpus=here.get("GPU", 0),
            max_calls=1,
            max_retries=DEATHS,
            runtime_env={"env_vars": _environment()},
        )(_carry_out)
        self._running: dict[Any, Job] = {}

    @property
    def free(self) -> bool:
        """Whether another run may start."""
        return len(self._running) < self.at_once

    def start(self, job: Job) -> None:
        """Hand a run to the cluster."""
        log = self._logs / log_name(job)
        reference = self._task.remote(job.config, job.folder.resolve(), log, self._threads, self._bundle)
        self._running[reference] = job

    def ended(self, seconds: float) -> list[tuple[Job, Outcome]]:
        """Wait so long at most for runs to end, and hand back those that did."""
        if not self._running:
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [(self._running.pop(reference), self._outcome(reference)) for reference in done]

    def running(self) -> list[Job]:
        """The runs in progress."""
        return list(self._running.values())

    def stop(self) -> None:
        """Ask all runs to save and stop."""
        for reference in self._running:
            self._ray.cancel(reference, force=False)

    def close(self) -> None:
        """End all runs at once, and let go of the cluster."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()

    def _outcome(self, reference: Any) -> Outcome:
        exceptions = self._ray.exceptions
        try:
            said: Outcome = self._ray.get(reference)
        except exceptions.TaskCancelledError:
            return Outcome("stopped", "stopped before it began")
        except exceptions.RayError as error:
            return Outcome("crashed", str(error).strip().splitlines()[0])
        return said


def connect(address: str) -> Any:
    """Connect to a Ray cluster; hands back the module.

    Raises:
        UserError: Ray is not installed, or there is no such cluster, or nothing in it.
    """
    try:
        import ray
    except ImportError:
        raise MissingPackageError("--cluster needs Ray: pip install 'ffvit[cluster]'") from None
    try:
        if ":" in address and "://" not in address:  # Ray itself would try for minutes
            host, port = address.rsplit(":", 1)
            _check_ray(host, int(port))
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise DeviceError(
            f"--cluster {address}: no Ray cluster answers there ({said}). Start one with `ray start --head`, or leave "
            "--cluster out to run on this machine"
        ) from None
    there = ray.cluster_resources()
    if not there.get("CPU"):
        ray.shutdown()
        raise DeviceError(f"--cluster {address}: the cluster is empty: no machine with a processor has joined it")
    return ray


def _check_ray(host: str, port: int) -> None:
    """Nothing, if what listens there speaks HTTP/2, as gRPC and with it Ray does.

    Raises:
        OSError: Nothing listens, or something else.
    """
    settings = 4  # the kind of frame that either side begins with
    with socket.create_connection((host, port), timeout=CONNECT) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, settings, 0, 0, 0, 0, 0)))
        answer = connection.recv(9)
    if len(answer) < 4 or answer[3] != settings:
        raise OSError("what listens there is not Ray")


def _carry_out(config: Config, folder: Path, log: Path, threads: int, bundle: dict[str, float]) -> Outcome:
    """What a task does: the run itself, or seeing to the parts of one that asks for several machines."""
    if config.hardware.nodes == 1:
        return run_job(config, folder, log, threads)
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.placement_group([bundle] * config.hardware.nodes, strategy="STRICT_SPREAD")
    ray.get(group.ready())
    try:

        def on(rank: int, do: Callable[..., Any]) -> Any:
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            asks = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0)}
            return ray.remote(max_calls=1, **asks)(do).options(scheduling_strategy=place)

        log.parent.mkdir(parents=True, exist_ok=True)
        what, meeting = command(config, folder, log), ray.get(on(0, _meeting_point).remote())
        parts = [
            on(rank, _part).remote(what, log, config.hardware, rank, meeting) for rank in range(config.hardware.nodes)
        ]
        outcomes: list[Outcome] = ray.get(parts)
    finally:
        ray.util.remove_placement_group(group)
    return next((each for each in outcomes if each.status != "done"), outcomes[0])


def _meeting_point() -> tuple[str, int]:
    """Where the processes of a run find each other: this machine's address, and a port that is free on it."""
    import ray

    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]


def _part(what: list[str], log: Path, hardware: Hardware, rank: int, meeting: tuple[str, int]) -> Outcome:
    """One machine's share of a run, by torchrun."""
    address, port = meeting
    torchrun = ["torch.distributed.run", f"--nnodes={hardware.nodes}", f"--nproc-per-node={hardware.devices}"]
    torchrun += [f"--node-rank={rank}", f"--master-addr={address}", f"--master-port={port}", "-m"]
    return launched([*torchrun, *what], log if rank == 0 else log.with_suffix(f".{rank}.log"))


def _environment() -> dict[str, str]:
    """What a run's process needs set before PyTorch is loaded."""
    return {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "PYTHONPATH") if name in os.environ}


def _in_words(ray: Any) -> str:
    there = ray.cluster_resources()
    return f"{there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs on {_machines(ray)} machines"


def _machines(ray: Any) -> int:
    return sum(node["Alive"] for node in ray.nodes())


def connected(address: str, hardware: Hardware) -> Callable[[int, Path], Cluster]:
    """Connect now, so that an address that does not answer is told of before anything is made.

    Raises:
        UserError: As `connect`.
    """
    ray = connect(address)
    return lambda threads, logs: Cluster(ray, hardware, threads, logs)
