"""Runs jobs on a Ray cluster: each is a task in a process of its own, wherever the GPUs it asks for are free.

The study folder must lie on a path that all machines share. Ray restarts a run whose machine dies on another machine, where
it resumes from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ffvit.config.hardware import Hardware
from ffvit.errors import DeviceError, MissingPackageError
from ffvit.run_folder import Config
from ffvit.study.executor import log_name
from ffvit.study.jobs import Job
from ffvit.study.run_job import Outcome, run_command, run_job, train_command

CONNECT = 10.0
"""Seconds to wait for the cluster to answer."""

DEATHS = 5
"""Machines that may die under a run before it counts as failed."""


class Cluster:
    """Hands jobs to a Ray cluster; `ray` is the module, connected."""

    def __init__(self, ray: Any, hardware: Hardware, threads: int, logs: Path) -> None:
        self._ray, self._logs, self._threads = ray, logs.resolve(), threads
        resources, machines = ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes())
        on_gpu = hardware.accelerator == "cuda" or (hardware.accelerator == "auto" and resources.get("GPU", 0) > 0)
        self._bundle: dict[str, float] = {"CPU": threads, "GPU": hardware.devices} if on_gpu else {"CPU": threads}
        self.at_once = int(min(resources.get(kind, 0) // (n * hardware.nodes) for kind, n in self._bundle.items()))
        if self.at_once < 1 or machines < hardware.nodes:
            asked = f"{hardware.devices} GPUs" if on_gpu else f"{threads} processor cores"
            ray.shutdown()
            raise DeviceError(
                f"--cluster: no place for a run that asks for {asked} on {hardware.nodes} machines: the cluster has "
                f"{resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs on {machines} machines"
            )
        # A run over several machines is started by a task that needs nothing itself.
        bundle = self._bundle if hardware.nodes == 1 else {"CPU": 0}
        variables = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "PYTHONPATH") if name in os.environ}
        self._task = ray.remote(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            max_calls=1,
            max_retries=DEATHS,
            runtime_env={"env_vars": variables},
        )(_run)
        self._references: set[Any] = set()

    def submit(self, job: Job) -> Future[Outcome]:
        """Hand a job to the cluster."""
        log = self._logs / log_name(job)
        reference = self._task.remote(
            job.config, job.folder.resolve(), log, self._threads, self._bundle, job.corruptions
        )
        self._references.add(reference)
        outcome: Future[Outcome] = Future()

        def ended(result: Future[Outcome]) -> None:
            self._references.discard(reference)
            outcome.set_result(self._outcome(result))

        reference.future().add_done_callback(ended)
        return outcome

    def stop(self) -> None:
        """Ask all jobs to save and stop."""
        for reference in list(self._references):
            self._ray.cancel(reference, force=False)

    def close(self) -> None:
        """End all jobs at once, and disconnect from the cluster."""
        for reference in list(self._references):
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()

    def _outcome(self, result: Future[Outcome]) -> Outcome:
        try:
            return result.result()
        except self._ray.exceptions.TaskCancelledError:
            return Outcome("stopped", "stopped before it began")
        except self._ray.exceptions.RayError as error:
            return Outcome("crashed", str(error).strip().splitlines()[0])


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


def _run(
    config: Config, folder: Path, log: Path, threads: int, bundle: dict[str, float], corruptions: tuple[str, ...]
) -> Outcome:
    """A task: the run itself, or starting its parts on the machines that it asks for."""
    if config.hardware.nodes == 1:
        return run_job(config, folder, log, threads, corruptions)
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = ray.util.placement_group([bundle] * config.hardware.nodes, strategy="STRICT_SPREAD")
    ray.get(group.ready())
    try:

        def on(rank: int, function: Callable[..., Any]) -> Any:
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            resources = {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0)}
            return ray.remote(max_calls=1, **resources)(function).options(scheduling_strategy=place)

        log.parent.mkdir(parents=True, exist_ok=True)
        command, meeting = train_command(config, folder, log), ray.get(on(0, _meeting_point).remote())
        ranks = range(config.hardware.nodes)
        parts = [on(rank, _part).remote(command, log, config.hardware, rank, meeting) for rank in ranks]
        outcomes: list[Outcome] = ray.get(parts)
    finally:
        ray.util.remove_placement_group(group)
    return next((outcome for outcome in outcomes if outcome.status != "done"), outcomes[0])


def _meeting_point() -> tuple[str, int]:
    """Where the processes of a run find each other: this machine's address, and a port that is free on it."""
    import ray

    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]


def _part(command: list[str], log: Path, hardware: Hardware, rank: int, meeting: tuple[str, int]) -> Outcome:
    """One machine's share of a run, by torchrun."""
    address, port = meeting
    torchrun = ["torch.distributed.run", f"--nnodes={hardware.nodes}", f"--nproc-per-node={hardware.devices}"]
    torchrun += [f"--node-rank={rank}", f"--master-addr={address}", f"--master-port={port}", "-m"]
    return run_command([*torchrun, *command], log if rank == 0 else log.with_suffix(f".{rank}.log"))
