"""TVM's RPC servers, and trackers that lend machines of a key."""

from __future__ import annotations

from typing import Any

from tvm import rpc

from sparsecc.errors import UsageError


def connected(address: str, key: str = "") -> Any:
    """A session of TVM's at a server, or with a key at a machine that the tracker there lends.

    Raises:
        UsageError: the address is not HOST:PORT. What TVM raises where nobody answers has no common class.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"expected HOST:PORT of an RPC server, found {address!r}")
    if key:
        return rpc.connect_tracker(host, int(port)).request(key)
    return rpc.connect(host, int(port))
