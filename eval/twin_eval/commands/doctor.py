"""Says in one screen what this machine has, and what to do about what is missing."""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from twin_eval.provenance import usable_cores, version_of

PROBE_TIMEOUT_S = 120
DISK_NEEDED_GB = 3

TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": names}))
"""

VULKAN_PROBE = """
import json, warnings
warnings.simplefilter("ignore")
import sapien, sapien.render
for name in ("cuda", "cpu"):  # The order in which the simulator chooses.
    try:
        device = sapien.Device(name)
    except RuntimeError:
        continue
    if name == "cpu" or device.can_render():
        break
system = sapien.render.RenderSystem(device)
summary = sapien.render.get_device_summary()
print(json.dumps({"device": name, "summary": summary}))
"""

State = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Finding:
    """One line of the screen."""

    name: str
    state: State
    """`missing` is needed for the demo; `optional` is absent and not needed for it."""
    text: str
    remedy: str = ""
    """What to do; empty if all is well."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `twinbench doctor`."""
    parser.add_argument("--robotwin", type=Path, metavar="ROOT", help="a checkout of RoboTwin")


def run(args: argparse.Namespace) -> int:
    """Prints the findings; returns 1 if the embedded demo cannot run here."""
    findings = examine(args.robotwin)
    marks = {"ok": "ok  ", "missing": "MISS", "optional": "-   "}
    for finding in findings:
        print(f"{marks[finding.state]}  {finding.name:<10}{finding.text}")
        if finding.remedy:
            print(f"{'':16}-> {finding.remedy}")
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if missing:
        print(f"\nThe embedded demo cannot run here: {', '.join(missing)} missing.")
        return 1
    print("\nAll that the embedded demo needs is here: `twinbench demo`.")
    return 0


def examine(robotwin: Path | None) -> list[Finding]:
    """All findings, in the order of the screen."""
    return [
        check_python(),
        *check_torch(),
        check_sapien(),
        check_vulkan(),
        check_ffmpeg(),
        check_disk(),
        check_robotwin(robotwin),
    ]


def check_python() -> Finding:
    """The interpreter's version and the machine's cores."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
    text += f"{usable_cores()} cores"
    return Finding("Python", "ok", text)


def check_torch() -> list[Finding]:
    """PyTorch and the GPUs it can use."""
    found, error = probe(TORCH_PROBE)
    if found is None:
        return [Finding("torch", "missing", error, "make setup")]
    build = f"CUDA {found['cuda']} build" if found["cuda"] else "CPU build"
    torch = Finding("torch", "ok", f"{found['version']} ({build})")
    if found["gpus"]:
        return [torch, Finding("GPU", "ok", ", ".join(found["gpus"]))]
    return [
        torch,
        Finding("GPU", "optional", "none that torch can use; everything runs on the CPU"),
    ]


def check_sapien() -> Finding:
    """SAPIEN's version, without loading it."""
    version = version_of("sapien")
    if version == "none":
        return Finding("SAPIEN", "missing", "not installed", "make setup")
    return Finding("SAPIEN", "ok", version)


def check_vulkan() -> Finding:
    """The device that SAPIEN renders with, found out in a process that may crash."""
    found, error = probe(VULKAN_PROBE)
    if found is None:
        remedy = "bash envs_adapter/install_vulkan.sh (installs it, or prints the commands)"
        return Finding("Vulkan", "missing", f"no device: {error}", remedy)
    names = device_names(found["summary"])
    text = "; ".join(names) or f"{found['device']} device"
    software = found["device"] == "cpu" and any("llvmpipe" in name.lower() for name in names)
    mesa = mesa_version() if software else ""
    if mesa:
        text += f", Mesa {mesa}"
    if software and mesa and version_tuple(mesa) < (24, 3):
        remedy = "Mesa 24.3 or newer is needed: bash envs_adapter/install_vulkan.sh"
        return Finding("Vulkan", "missing", text, remedy)
    return Finding("Vulkan", "ok", text)


def check_ffmpeg() -> Finding:
    """The encoder for videos."""
    found, error = probe(
        "import json, imageio_ffmpeg as f\n"
        "print(json.dumps({'version': f.get_ffmpeg_version(), 'path': f.get_ffmpeg_exe()}))"
    )
    if found is None:
        return Finding("ffmpeg", "missing", error, "make setup")
    return Finding("ffmpeg", "ok", str(found["version"]))


def check_disk() -> Finding:
    """Space where results would be written."""
    free_gb = shutil.disk_usage(".").free / 1e9
    text = f"{free_gb:.0f} GB free here"
    if free_gb < DISK_NEEDED_GB:
        return Finding("disk", "missing", text, f"the demo writes up to {DISK_NEEDED_GB} GB")
    return Finding("disk", "ok", text)


def check_robotwin(root: Path | None) -> Finding:
    """Whether `root` looks like a checkout of RoboTwin."""
    if root is None:
        return Finding(
            "RoboTwin", "optional", "not asked for (--robotwin ROOT looks at a checkout)"
        )
    absent = [name for name in ("envs", "script", "task_config") if not (root / name).is_dir()]
    if absent:
        text = f"{root} has no {', '.join(absent)}"
        return Finding("RoboTwin", "optional", text, "give the root of a RoboTwin checkout")
    return Finding("RoboTwin", "ok", str(root))


def probe(code: str) -> tuple[dict[str, Any] | None, str]:
    """What `code` prints as JSON on its last line, run in a process of its own; else the reason."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {PROBE_TIMEOUT_S} s"
    if done.returncode < 0:
        return None, f"the process crashed (signal {-done.returncode})"
    if done.returncode > 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return None, lines[-1] if lines else f"exit status {done.returncode}"
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


def device_names(summary: str) -> list[str]:
    """The supported devices in SAPIEN's device summary."""
    names: list[str] = []
    for block in re.split(r"(?m)^GPU: ", summary)[1:]:
        name, _, details = block.partition("\n")
        supported = re.search(r"Supported:\s*(\d)", details)
        if supported is None or supported.group(1) != "0":
            names.append(name.strip())
    return names


def mesa_version() -> str:
    """Version of the installed Mesa Vulkan drivers by the package system; empty if unknown."""
    queries = (
        ["dpkg-query", "-W", "-f", "${Version}", "mesa-vulkan-drivers"],
        ["rpm", "-q", "--qf", "%{VERSION}", "mesa-vulkan-drivers"],
    )
    for query in queries:
        if shutil.which(query[0]):
            done = subprocess.run(query, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
    return ""


def version_tuple(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, e.g. (25, 0, 7) of `25.0.7-2~bpo12+1`."""
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()
