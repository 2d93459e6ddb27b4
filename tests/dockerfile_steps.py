"""The steps of deploy/Dockerfile without a container engine: its stages become folders, its commands run in them.

python tests/dockerfile_steps.py [EXTRAS=serve,export] ...

Builds, installs, trains a small run, starts the image's command on it, asks its own health check, sends an image, and
ends it with SIGTERM. What only an engine or root can do is left out: the base image, `useradd`, `USER`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = Path(__file__).parents[1]
DOCKERFILE = CONTEXT / "deploy" / "Dockerfile"
NEEDS_ROOT = "useradd "
PORT = "7860"
TOKEN = "correct horse battery staple"


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and rest of each instruction, with continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name.upper(), rest.strip()) for name, _, rest in (line.strip().partition(" ") for line in joined)]


@dataclass
class Build:
    """A build whose root is a folder.

    Attributes:
        root: Stands for `/`, in all stages.
        given: Build arguments.
        environment: Of the stage.
        folder: Its working folder.
        found: ENTRYPOINT, CMD, HEALTHCHECK and STOPSIGNAL of the last stage.
    """

    root: Path
    given: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    found: dict[str, str] = field(default_factory=dict)

    def inside(self, text: str) -> str:
        """Text with its absolute paths below the root."""
        return re.sub(r"(?:^|(?<=[\s=\"'(]))/(?=\w)", f"{self.root}/", text)

    def step(self, name: str, rest: str) -> None:
        """Do an instruction."""
        print(f"{name} {rest}", flush=True)
        if name == "FROM":
            self.environment, self.folder, self.found = dict(os.environ), self.root, {}
            self.environment.pop("PYTHONPATH", None)
        elif name == "ARG":
            key, _, default = rest.partition("=")
            self.environment[key] = self.given.get(key, default)
        elif name == "ENV":
            for pair in shlex.split(rest):
                key, _, value = self.inside(pair).partition("=")
                self.environment[key] = value.replace("$PATH", self.environment["PATH"])
        elif name == "WORKDIR":
            self.folder = Path(self.inside(rest))
            self.folder.mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            self._copy(*shlex.split(rest))
        elif name == "RUN" and not rest.startswith(NEEDS_ROOT):
            subprocess.run(["sh", "-ec", self.inside(rest)], cwd=self.folder, env=self.environment, check=True)
        elif name in ("ENTRYPOINT", "CMD", "HEALTHCHECK", "STOPSIGNAL"):
            self.found[name] = rest
        elif name not in ("RUN", "USER", "EXPOSE"):
            raise SystemExit(f"{name}: what this does is not known here")

    def _copy(self, *arguments: str) -> None:
        *sources, target = arguments
        if sources[0].startswith("--from="):  # all stages share the root
            assert sources[1:] == [target], "between stages, a folder keeps its path"
            assert Path(self.inside(target)).exists(), target
            return
        for source in sources:
            to = self.folder / target
            to = to if target == f"./{source}" else to / Path(source).name
            copy = shutil.copytree if (CONTEXT / source).is_dir() else shutil.copy
            copy(CONTEXT / source, to)

    def command(self, name: str, port: int) -> list[str]:
        """A command in JSON, with another port."""
        given = json.loads(self.found[name].partition("CMD ")[2] if name == "HEALTHCHECK" else self.found[name])
        return [self.inside(argument).replace(PORT, str(port)) for argument in given]


def serve(build: Build) -> None:
    """Start the image's command on a run, use it, end it."""
    environment = build.environment | {"FFVIT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    (build.root / "tmp").mkdir(exist_ok=True)
    short = ["--recipe.epochs", "1", "--recipe.warmup-epochs", "0", "--workers", "0"]
    train = ["ffvit", "train", "ff_micro_patch2_8", "--out", str(build.root / "models"), *short]
    subprocess.run(train, env=environment, cwd=build.root, check=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [*build.command("ENTRYPOINT", port), *build.command("CMD", port)]
    print(shlex.join(command), flush=True)
    server = subprocess.Popen(command, env=environment, cwd=build.root)
    try:
        check = build.command("HEALTHCHECK", port)
        while subprocess.run(check, env=environment, stderr=subprocess.DEVNULL, check=False).returncode:
            assert server.poll() is None, "the server ended"
            time.sleep(0.5)
        image = next((CONTEXT / "tests").rglob("*.png"), None) or next((CONTEXT / "docs").rglob("*.png"))
        headers = {"content-type": "image/png", "authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", image.read_bytes(), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            (answer,) = json.load(response)["images"]
        assert answer["predictions"][0]["classes"], answer
        server.send_signal(getattr(signal, build.found["STOPSIGNAL"]))
        assert server.wait(60) == 0, server.returncode
    finally:
        server.kill()


def main(*given: str) -> None:
    """Do all steps in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        build = Build(Path(folder).resolve(), dict(pair.split("=", 1) for pair in given))
        for name, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")):
            build.step(name, rest)
        serve(build)
    print("built, installed, healthy, answered, ended with 0")


if __name__ == "__main__":
    main(*sys.argv[1:])
