"""Fingerprints of frozen networks. The file of a head names its network by fingerprint."""

from edm.fingerprints import base_state_dict, fingerprint

__all__ = ["base_state_dict", "fingerprint"]
