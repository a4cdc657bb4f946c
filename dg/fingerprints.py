"""Fingerprints of frozen networks: a head's file names by one the network that it was trained
on."""

from edm.fingerprints import base_state_dict, fingerprint

__all__ = ["base_state_dict", "fingerprint"]
