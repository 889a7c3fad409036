"""Addresses that webhooks may go to: a name is looked up once, and what it means is checked before it is used.

A receiver's host is the operator's choice, and what its name means is somebody else's: a name that is pointed at this
machine, at a cloud's metadata service or into the private network must not make us call there.
"""

from __future__ import annotations

import ipaddress
import socket

from hybridmu.config.webhooks import is_loopback

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def look_up(host: str, port: int, *, private: bool) -> tuple[list[str], str | None]:
    """Return the addresses of a host in the order in which they are to be tried, and why there is none.

    Args:
        host: A name, or an address.
        port: Of the service.
        private: Whether addresses of private networks will do.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return [], "the host's name is not known"
    texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    refused = [reason for text in texts if (reason := refusal(text, host, private=private))]
    # All or none: a name server must not slip one of ours between those of the receiver.
    return ([], refused[0]) if refused else (texts, None)


def refusal(text: str, host: str, *, private: bool) -> str | None:
    """Return why an address of a host must not be called, or None.

    Args:
        text: The address.
        host: What the configuration names.
        private: Whether addresses of private networks will do.

    Example:
        >>> refusal("169.254.169.254", "crm.example.org", private=True)
        'the host has an address that is never called'
        >>> refusal("10.0.0.7", "crm.example.org", private=False)
        "the host has a private network's address: set private_network"
    """
    address = _meant(ipaddress.ip_address(text.partition("%")[0]))
    if is_loopback(host) or address.is_loopback:
        both = is_loopback(host) and address.is_loopback
        return None if both else "the host is this machine's by its name or its address, and not by both"
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return "the host has an address that is never called"
    if not address.is_global and not private:
        return "the host has a private network's address: set private_network"
    return None


def _meant(address: Address) -> Address:
    """Return the address of IPv4 that one of IPv6 stands for, or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
