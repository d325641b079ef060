# SPDX-License-Identifier: Apache-2.0
"""A policy's drill: which restores are rehearsed, when, and what makes each a good one."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from snapvault.config.document import Document, Location
from snapvault.config.kinds import SourceShape, StreamShape
from snapvault.config.paths import resolve
from snapvault.config.problems import Problem, ProblemError, found, nearest_hint, quoted
from snapvault.config.schedules import ScheduleShape
from snapvault.config.strict import Shape
from snapvault.config.validate import problem_at
from snapvault.config.values import (
    Name,
    PathText,
    Percentage,
    PositiveDuration,
    ProgramLine,
    SomeText,
    TcpPort,
    Texts,
    needs_text,
    percent,
)
from snapvault.model.policy import DrillSpec, Schedule
from snapvault.model.rehearsal import (
    LEAST_MEMORY,
    MOST_CPUS,
    AgentCheck,
    BootCheck,
    BootDrill,
    Choice,
    CommandCheck,
    ConsoleCheck,
    DatabaseDrill,
    DrillKind,
    DrillStep,
    FilesDrill,
    PortCheck,
    SqlCheck,
)
from snapvault.units import format_size, parse_size

_MOST_MEMORY: Final = 1 << 40  # bytes


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(
            f"expected a regular expression, found {quoted(text, limit=60)}: {error}"
        ) from None
    return text


def _memory(value: object) -> int:
    size = parse_size(needs_text(value, 'a size with its unit, such as "1 GiB"'))
    if not LEAST_MEMORY <= size <= _MOST_MEMORY:
        raise ValueError(
            f"expected a size from {format_size(LEAST_MEMORY)} to {format_size(_MOST_MEMORY)},"
            f" found {found(value)}"
        )
    return size


Pattern = Annotated[SomeText, AfterValidator(_pattern)]
MemorySize = Annotated[
    int,
    BeforeValidator(_memory),
    WithJsonSchema({"type": "string", "examples": ["512 MiB", "2 GiB"]}),
]


class BootCheckShape(Shape):
    """What a machine that was started must show: exactly one of the first four."""

    console: Pattern | None = None
    """A regular expression that a line of the serial console must match."""
    agent: bool = False
    """Whether the guest agent must answer."""
    port: TcpPort | None = None
    """A TCP port that must take a connection."""
    run: ProgramLine | None = None
    """A program that the guest agent runs, and its arguments."""
    status: Annotated[int, Field(ge=0, le=255)] = 0
    """The exit status that the program must end with."""
    output: Pattern | None = None
    """A regular expression that must be found in what the program prints."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = {
            "console": self.console is not None,
            "agent": self.agent,
            "port": self.port is not None,
            "run": self.run is not None,
        }
        given = " and ".join(quoted(name) for name, is_given in named.items() if is_given)
        if sum(named.values()) != 1:
            raise ValueError(
                'expected exactly one of "agent", "console", "port" and "run",'
                f" found {given or 'none'}"
            )
        for key in ("status", "output"):
            if key in self.model_fields_set and self.run is None:
                raise ValueError(f'expected {quoted(key)} with "run" only, found it with {given}')
        return self


class BootDrillShape(Shape):
    """Start the machine, cut off from every network, and look."""

    checks: list[BootCheckShape] = Field(min_length=1)
    """What it must show, in this order."""
    memory: MemorySize = Field(1 << 30, json_schema_extra={"default": "1 GiB"})
    """The memory of the machine."""
    cpus: Annotated[int, Field(ge=1, le=MOST_CPUS)] = 1
    """The processors of the machine."""
    firmware: Literal["auto", "bios", "uefi"] = "auto"
    """What starts the system; auto looks at the disk."""
    bus: Literal["virtio", "sata"] = "virtio"
    """How the disks are attached."""
    instant: bool = False
    """Whether it starts from the vault, without a full restore."""
    timeout: PositiveDuration = timedelta(minutes=10)
    """The longest time from the start to each check."""


class SqlCheckShape(Shape):
    """A statement, and what its first value must be: exactly one of expect and at_least."""

    sql: SomeText
    """The statement."""
    database: SomeText | None = None
    """The database to ask; left out: the only one."""
    expect: Pattern | None = None
    """A regular expression that the whole value must match."""
    at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """The least number that the value may be."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.expect is None) == (self.at_least is None):
            names = "none" if self.expect is None else "both"
            raise ValueError(f'expected exactly one of "expect" and "at_least", found {names}')
        return self


class DatabaseDrillShape(Shape):
    """Load the dumps into a private server, and ask it."""

    checks: list[SqlCheckShape] = Field(default_factory=list)
    """What it must answer, in this order."""
    compare_tables: bool = True
    """Whether tables are compared with what they were at the backup."""
    timeout: PositiveDuration = timedelta(hours=1)
    """The longest time that loading and asking may take."""


class FilesDrillShape(Shape):
    """Prove data against its digests, and look into archives."""

    sample: Percentage = "100%"
    """The part of a disk's data that is fetched and proven; other streams come back whole."""
    paths: Texts = Field(default_factory=list)
    """Paths that must be in a folder's archive."""
    compare_live: bool = False
    """Whether a folder's files that did not change since are compared with those in the archive."""


class StepShape(Shape):
    """How one source is rehearsed: exactly one kind."""

    boot: BootDrillShape | None = None
    """Start it as a machine."""
    database: DatabaseDrillShape | None = None
    """Load it into a database server."""
    files: FilesDrillShape | None = None
    """Prove its data, and look for files."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in type(self).model_fields if getattr(self, key) is not None]
        if len(given) != 1:
            names = " and ".join(quoted(key) for key in given) or "none"
            raise ValueError(
                f'expected exactly one of "boot", "database" and "files", found {names}'
            )
        return self


class DrillShape(Shape):
    """How restores are rehearsed."""

    steps: list[dict[Name, StepShape]] = Field(min_length=1)
    """One source each, and its kind of drill; when one fails, those after it are skipped."""
    schedule: ScheduleShape | None = None
    """When to rehearse; left out: only when asked."""
    point: Literal["latest", "random", "oldest"] = "latest"
    """Which restore point is rehearsed."""
    within: PositiveDuration | None = None
    """The age that a random restore point may have; left out: any."""
    gnupg_home: PathText | None = None
    """GnuPG's folder with the recovery key; left out: the vault's."""
    passphrase_file: PathText | None = None
    """A file with the passphrase of the recovery key."""
    scratch: PathText | None = None
    """A folder for what is restored; left out: a private one in /var/tmp."""

    @field_validator("steps")
    @classmethod
    def _one_source_each(cls, steps: list[dict[str, StepShape]]) -> list[dict[str, StepShape]]:
        for step in steps:
            if len(step) != 1:
                names = " and ".join(quoted(name) for name in step) or "none"
                raise ValueError(f"expected one source in each step, found {names}")
        return steps

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.within is not None and self.point != "random":
            raise ValueError(
                f'expected "within" with point "random" only, found it with {quoted(self.point)}'
            )
        return self


def drill_faults(
    document: Document, shape: DrillShape | None, sources: Mapping[str, SourceShape]
) -> list[Problem]:
    """Return what is wrong with a drill's steps, seen together with the policy's sources."""
    problems = []
    for number, step in enumerate(shape.steps if shape else ()):
        for name, each in step.items():
            location: Location = ("drill", "steps", number, name)
            if name not in sources:
                message = f"expected a source of this policy, found {quoted(name)}"
                hint = nearest_hint(name, sources, what="sources")
                problems.append(problem_at(document, location, message, hint))
                continue
            problems += [
                problem_at(document, (*location, *where), message, hint)
                for where, message, hint in _misfits(each, sources[name])
            ]
    return problems


def _misfits(
    step: StepShape, source: SourceShape
) -> Iterator[tuple[tuple[str, ...], str, str | None]]:
    """Yield where a step asks of a source what it does not have: place, message, hint."""
    streams = [source] if source.streams is None else list(source.streams.values())
    if step.boot and not any(_is_disk(stream) for stream in streams):
        message = "expected a source with a disk to start from, found one without"
        yield ("boot",), message, 'Use "files", or "database" for dumps.'
    products = {product for stream in streams if (product := _product(stream))}
    if step.database and len(products) != 1:
        shown = "one without" if not products else "dumps of several servers"
        message = f"expected a source with dumps of a database server, found {shown}"
        hint = 'Dumps are what "mysql" without "lvm" and "postgresql" without "base_backup" make.'
        yield ("database",), message, hint
    if step.files and not any(stream.directory for stream in streams):
        for key in ("paths", "compare_live"):
            if getattr(step.files, key):
                message = (
                    f'expected {quoted(key)} for a source with a "directory", found one without'
                )
                yield ("files", key), message, None


def _is_disk(stream: StreamShape) -> bool:
    return bool(stream.image or stream.lvm or stream.ebs or stream.qemu)


def _product(stream: StreamShape) -> str | None:
    server = stream.mysql or stream.mariadb
    if server is not None and server.lvm is None:
        return "mysql"
    is_dump = stream.postgresql is not None and not stream.postgresql.base_backup
    return "postgresql" if is_dump else None


def drill_spec(document: Document, shape: DrillShape | None) -> DrillSpec | None:
    """Make the model value of a drill.

    Raises:
        ProblemError: a path in a home folder that nobody knows.
    """
    if shape is None:
        return None

    def path(key: str, text: str | None) -> Path | None:
        try:
            return None if text is None else resolve(text, beside=document.path)
        except ValueError as error:
            raise ProblemError(problem_at(document, ("drill", key), str(error))) from error

    return DrillSpec(
        steps=tuple(
            DrillStep(name, _kind(each)) for step in shape.steps for name, each in step.items()
        ),
        schedule=Schedule(**dict(shape.schedule)) if shape.schedule else None,
        choice=Choice(shape.point),
        within=shape.within,
        gnupg_home=path("gnupg_home", shape.gnupg_home),
        passphrase_file=path("passphrase_file", shape.passphrase_file),
        scratch=path("scratch", shape.scratch),
    )


def _kind(shape: StepShape) -> DrillKind:
    if shape.boot is not None:
        checks = tuple(_boot_check(check) for check in shape.boot.checks)
        return BootDrill(**{**dict(shape.boot), "checks": checks})
    if shape.database is not None:
        return DatabaseDrill(
            tuple(SqlCheck(**dict(check)) for check in shape.database.checks),
            shape.database.compare_tables,
            shape.database.timeout,
        )
    files = shape.files or FilesDrillShape()
    return FilesDrill(percent(files.sample), tuple(files.paths), files.compare_live)


def _boot_check(shape: BootCheckShape) -> BootCheck:
    if shape.console is not None:
        return ConsoleCheck(shape.console)
    if shape.port is not None:
        return PortCheck(shape.port)
    if shape.run is not None:
        return CommandCheck(tuple(shape.run), shape.status, shape.output)
    return AgentCheck()
