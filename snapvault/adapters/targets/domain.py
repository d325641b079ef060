# SPDX-License-Identifier: Apache-2.0
"""A libvirt domain's XML, changed to have the disks that were restored.

Of each disk that came back the source and its types are changed, and what describes images
below it is left out: what comes back has none. All else stays as it was saved.

Source: https://libvirt.org/formatdomain.html, "Hard drives, floppy disks, CDROMs".
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn
from xml.dom.minidom import Document, Element, parseString
from xml.parsers import expat

from snapvault.errors import RestoreError

_LARGEST: Final = 4 << 20  # bytes; libvirt itself takes no more than 10 MiB
_BELOW: Final = ("backingStore", "mirror")
_OTHER_SOURCES: Final = ("file", "dev", "name", "dir", "volume")


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """A disk that came back to `path`; a block device if `is_device`, `image_format` in a file.

    `own_name` is what the machine called it, `places` are the paths that it had.
    """

    stream: str
    own_name: str
    places: frozenset[str]
    path: Path
    image_format: str
    is_device: bool = False


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The new definition: `name` is the domain's.

    `left` are disks that nothing came back for and that still have their old sources, `unused` the
    streams of disks that the definition does not have.
    """

    text: bytes
    name: str
    left: tuple[str, ...]
    unused: tuple[str, ...]
    has_nvram: bool


def is_domain(text: bytes) -> bool:
    """Tell whether a text is meant to be a domain's XML, and no command line."""
    return text.lstrip()[:1] == b"<"


def rewrite(text: bytes, disks: Sequence[RestoredDisk]) -> Rewritten:
    """Return a definition with the disks that were restored.

    Raises:
        RestoreError: it is no domain's XML, has a document type or entities, or is too large; or
            a disk's path cannot be written in XML.
    """
    _require_plain(text)
    document = parseString(text)  # noqa: S318 - SAFETY: it has no document type, so no entities
    root = document.documentElement
    if root is None or root.tagName != "domain":
        raise RestoreError("it is not the definition of a domain")
    if odd := [disk.stream for disk in disks if not str(disk.path).isprintable()]:
        raise RestoreError(f'the path of stream "{odd[0]}" cannot be written in XML')
    left: list[str] = []
    unused = list(disks)
    for element in _disks(root):
        found = next((disk for disk in unused if _is_same(element, disk)), None)
        if found is not None:
            unused.remove(found)
            _put(document, element, found)
        elif place := _place(element):
            left.append(f"{_target(element)} ({place})")
    names = root.getElementsByTagName("name")
    return Rewritten(
        document.toxml(encoding="utf-8") + b"\n",
        _text(names[0]) if names else "",
        tuple(left),
        tuple(disk.stream for disk in unused),
        bool(root.getElementsByTagName("nvram")),
    )


def _require_plain(text: bytes) -> None:
    """Refuse what can make a parser read other files, or take all memory."""

    def refuse(*_: object) -> NoReturn:
        raise RestoreError("it has a document type, which libvirt never writes")

    if len(text) > _LARGEST:
        raise RestoreError("it is too large for the definition of a machine")
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise RestoreError(f"it is no XML: {error}") from error


def _disks(domain: Element) -> Iterator[Element]:
    """Yield the hard disks; CDs and floppies were not saved."""
    for devices in _children(domain, "devices"):
        for disk in _children(devices, "disk"):
            if disk.getAttribute("device") in ("", "disk", "lun"):
                yield disk


def _is_same(element: Element, disk: RestoredDisk) -> bool:
    """Tell whether a disk of the definition is the one that came back."""
    place = _place(element)
    if place and place in disk.places:
        return True
    aliases = (_stream_name(alias.getAttribute("name")) for alias in _children(element, "alias"))
    return disk.own_name in (*aliases, _stream_name(_target(element)))


def _put(document: Document, element: Element, disk: RestoredDisk) -> None:
    """Let a disk of the definition be what was restored."""
    for name in _BELOW:
        for child in _children(element, name):
            element.removeChild(child)
    kind, attribute = ("block", "dev") if disk.is_device else ("file", "file")
    element.setAttribute("type", kind)
    source = document.createElement("source")
    source.setAttribute(attribute, str(disk.path))
    old = _children(element, "source")
    if old:
        element.replaceChild(source, old[0])
    else:
        element.insertBefore(source, element.firstChild)
    for driver in _children(element, "driver"):
        driver.setAttribute("type", disk.image_format)
    if element.getAttribute("device") == "lun":  # which only a real SCSI disk can be
        element.setAttribute("device", "disk")


def _place(element: Element) -> str:
    """Return where a disk's bytes are, in the one word that its source has for it."""
    for source in _children(element, "source"):
        for attribute in _OTHER_SOURCES:
            if value := source.getAttribute(attribute):
                return value
    return ""


def _target(element: Element) -> str:
    targets = _children(element, "target")
    return targets[0].getAttribute("dev") if targets else ""


def _stream_name(text: str) -> str:
    """Write a name as a stream's is made of it."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:40]


def _children(element: Element, name: str) -> list[Element]:
    return [
        child
        for child in element.childNodes
        if isinstance(child, Element) and child.tagName == name
    ]


def _text(element: Element) -> str:
    return "".join(child.data for child in element.childNodes if hasattr(child, "data")).strip()
