"""Where processes listen, from /proc alone."""

import contextlib
import ipaddress
import struct
import time
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.studies import Command

LISTEN = "0A"  # the kernel's number of that state


class Listener(NamedTuple):
    """A listening TCP socket and the process that holds it."""

    process: str
    address: str
    port: int

    @property
    def on_loopback(self) -> bool:
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def address(text: str) -> str:
    """An address as /proc/net/tcp and tcp6 write it: 32-bit words in the machine's byte order.

    >>> address("0100007F"), address("00000000"), address("00000000000000000000000001000000")
    ('127.0.0.1', '0.0.0.0', '::1')
    """
    raw = bytes.fromhex(text)
    words = struct.unpack(f">{len(raw) // 4}I", raw)
    return str(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))


def all_listening() -> dict[str, tuple[str, int]]:
    """Address and port of every listening TCP socket of this machine, by inode."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                columns = line.split()
                host, port = columns[1].split(":")
                if columns[3] == LISTEN:
                    addresses[columns[9]] = (address(host), int(port, 16))
    return addresses


def of(pids: list[int]) -> list[Listener]:
    """The listening sockets of these processes."""
    addresses, listeners = all_listening(), set()
    for pid in pids:
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    kind, _, inode = str(handle.readlink()).partition(":")
                    if kind == "socket" and inode[1:-1] in addresses:
                        listeners.add(Listener(Path(name).name, *addresses[inode[1:-1]]))
    return sorted(listeners)


def watch(command: Command) -> list[Listener]:
    """All sockets that a command and what it starts listen on, from its start to its end."""
    listeners: set[Listener] = set()
    while command.process.poll() is None:
        listeners.update(of([command.pid, *command.tree()]))
        time.sleep(0.2)
    return sorted(listeners)
