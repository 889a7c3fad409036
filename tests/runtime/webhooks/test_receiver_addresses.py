"""Addresses: which are called, and which are not, whatever a name is made to mean."""

from __future__ import annotations

import pytest

from hybridmu.runtime.webhooks.receiver_addresses import look_up, refusal

NEVER = ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1"]
DISGUISED = ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "fe80::1%eth0"]
OURS = ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
PRIVATE = ["10.0.0.7", "172.16.3.4", "192.168.1.1", "100.64.0.1", "fd00::1", "fd00:ec2::254", "::ffff:10.0.0.7"]
PUBLIC = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"]


@pytest.mark.parametrize("address", [*NEVER, *DISGUISED, *OURS])
def test_no_name_of_somebody_else_leads_there(address):
    assert refusal(address, "crm.example.org", private=False)
    assert refusal(address, "crm.example.org", private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_network_has_to_be_asked_for(address):
    assert "private_network" in (refusal(address, "crm.example.org", private=False) or "")
    assert refusal(address, "crm.example.org", private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_the_rest_of_the_world_is_called(address):
    assert refusal(address, "crm.example.org", private=False) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_this_machine_is_called_by_its_own_names_alone(host):
    assert refusal("127.0.0.1", host, private=False) is None
    for address in (*PUBLIC, *PRIVATE, *NEVER):
        assert refusal(address, host, private=True)


def test_one_refused_address_among_good_ones_refuses_all(monkeypatch):
    found = [(2, 1, 6, "", (text, 443)) for text in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    addresses, why = look_up("crm.example.org", 443, private=False)
    assert (addresses, bool(why)) == ([], True)


def test_a_name_that_nobody_knows_is_no_error():
    assert look_up("nowhere.invalid", 443, private=False) == ([], "the host's name is not known")
