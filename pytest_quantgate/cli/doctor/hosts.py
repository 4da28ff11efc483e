"""Whether the hosts of the configuration can be reached and have an engine."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from pytest_quantgate.cli.doctor.findings import Section, Severity
from pytest_quantgate.cli.doctor.project import Project
from pytest_quantgate.engines.inventory import device_lines
from pytest_quantgate.errors import CellError
from pytest_quantgate.hosts.inventory import ask_host

ANSWER_S = 60.0
"""How long a host's engine may be silent."""


def examine_hosts(section: Section, project: Project) -> None:
    """Ask every host; one that the profile does not use is a warning."""
    settings = project.settings
    used = {host for name in settings.profile.devices for host in settings.devices[name].hosts}
    if not settings.hosts:
        section.say("none is configured")
    for label, host in settings.hosts.items():
        severity = Severity.ERROR if label in used else Severity.WARNING
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                answer = ask_host(label, host, Path(folder), ANSWER_S)
            except CellError as error:
                section.say(f"{label}: cannot be used")
                section.find(severity, error)
                section.facts[label] = {"error": str(error).partition("\n")[0]}
                continue
        identity = answer.identity
        section.say(
            f"{label}: {identity.kind} {identity.version}, {answer.n_cpus} processors",
            *(f"  {line}" for line in device_lines(answer.devices)),
        )
        listed = {device.name for device in answer.devices}
        for name in settings.profile.devices:
            device = settings.devices[name]
            missing = [item for item in device.names if item not in listed]
            if label in device.hosts and missing:
                section.error(
                    f"device {name!r}: host {label!r} has no {missing[0]!r}; there are:"
                    f" {', '.join(sorted(listed))}"
                )
        section.facts[label] = {
            "version": identity.version,
            "devices": [asdict(device) for device in answer.devices],
        }
