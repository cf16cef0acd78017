"""Running promtool and amtool. They are not optional here: without them nothing is known of a rule."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from monitoring.rules import RULES

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "monitoring" / "prometheus" / "alerts.yaml"
RULE_FILES = (RULES, ALERTS)


def tool(name: str) -> str:
    """Where a program is. Raises AssertionError where it is not: .ci/run installs it."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)"
    return found


def run(name: str, *arguments: str | Path) -> tuple[bool, str]:
    """Whether it was content, and what it said."""
    ran = subprocess.run([tool(name), *map(str, arguments)], capture_output=True, check=False)
    return ran.returncode == 0, (ran.stdout + ran.stderr).decode()


def groups_of(*files: Path) -> list[dict[str, Any]]:
    """The groups of rules files."""
    return [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]


def alerts_of(*files: Path) -> list[dict[str, Any]]:
    """Every alert of these files, in order."""
    return [rule for group in groups_of(*files) for rule in group["rules"] if "alert" in rule]


def hold(
    folder: Path, groups: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]], *, every: str
) -> tuple[bool, str]:
    """Run `promtool test rules`: whether all tests hold for these groups of rules."""
    rules, cases = folder / "rules.yaml", folder / "tests.yaml"
    rules.write_text(yaml.safe_dump({"groups": list(groups)}, sort_keys=False), encoding="utf-8")
    body = {"rule_files": [str(rules)], "evaluation_interval": every, "tests": list(tests)}
    cases.write_text(yaml.safe_dump(body, sort_keys=False), encoding="utf-8")
    return run("promtool", "test", "rules", cases)


def labels(name: str = "", **values: str) -> str:
    """A series as promtool writes it."""
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in values.items()) + "}"
