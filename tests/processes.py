"""What running processes show to others, read from /proc: their commands, and where they listen. For tests."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

LISTENING = "0A"


def descendants(pid: int) -> list[int]:
    """This process and all that it has started, directly or not."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = list[int](), [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def command_of(pid: int) -> str:
    """What every user of the machine can read of it; empty when it has gone."""
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def listening(pids: Iterable[int]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket on which one of these processes waits for others."""
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                found.add((str(_address(bytes.fromhex(address))), int(port, 16)))
    return found


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it; IPv4 inside IPv6 too."""
    found = ip_address(address)
    inner = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (inner or found).is_loopback


def _sockets(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for link in (Path("/proc") / str(pid) / "fd").iterdir():
            with suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    yield target[len("socket:[") : -1]


def _address(raw: bytes) -> IPv4Address | IPv6Address:
    """From the kernel's table, whose words are in the machine's byte order."""
    words = struct.unpack(f"={len(raw) // 4}I", raw)
    packed = b"".join(struct.pack("!I", word) for word in words)
    return IPv6Address(packed) if len(raw) == 16 else IPv4Address(socket.inet_ntoa(packed))
