from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_process import TOKEN, Server, save_network


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> tuple[Path, Path]:
    """Two files of weights: differently drawn small networks."""
    folder = tmp_path_factory.mktemp("networks")
    return save_network(folder / "first.safetensors", 1), save_network(folder / "second.safetensors", 2)


@pytest.fixture(scope="session")
def servers(networks) -> Iterator[list[Server]]:
    """The servers that tests have started."""
    started: list[Server] = []
    yield started
    for server in started:
        server.end(signal.SIGKILL)


@pytest.fixture
def server(networks, servers) -> Server:
    """`ffvit serve` of both networks, one for all tests (most of its time is its start), or another once it was ended."""
    if not servers or servers[-1].process.poll() is not None:
        servers.append(Server(*networks, "--max-mib", 1, "--accelerator", "cpu", FFVIT_TOKEN=TOKEN))
    return servers[-1]
