"""HTTPS at the router's door: what the listener has more where a certificate is set. Pure.

Certificate and key are read by Envoy itself, through a secret in a file of its own, so that both are taken anew when either is
renamed into place: nothing is drained, and open connections go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.adapters.envoy_edge import TYPE
from tasks.domain.manifest import Record

SECRET = "edge"
HANDSHAKE_S = 10


class Certificate(Record):
    """Files of PEM blocks: the certificate with those that lead to its root, and its private key."""

    chain: Path
    key: Path


def secret(certificate: Certificate) -> dict[str, Any]:
    """The resource of sds.json. It names the files, and holds nothing of them."""
    files = {
        "certificate_chain": {"filename": str(certificate.chain)},
        "private_key": {"filename": str(certificate.key)},
    }
    return {
        "@type": f"{TYPE}extensions.transport_sockets.tls.v3.Secret",
        "name": SECRET,
        "tls_certificate": files,
    }


def filter_chains(filters: list[dict[str, Any]], sds: dict[str, Any]) -> dict[str, Any]:
    """Of the listener: TLS from anywhere; plain HTTP from this machine alone, for the stack's own commands.

    Args:
        sds: config source of the secret.
    """
    context = {
        "@type": f"{TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [{"name": SECRET, "sds_config": sds}],
        },
    }
    inspector = {"@type": f"{TYPE}extensions.filters.listener.tls_inspector.v3.TlsInspector"}
    loopback = [{"address_prefix": "127.0.0.0", "prefix_len": 8}]
    return {
        "listener_filters": [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}],
        "filter_chains": [
            {
                "name": "tls",
                "filter_chain_match": {"transport_protocol": "tls"},
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
                "transport_socket_connect_timeout": f"{HANDSHAKE_S}s",
                "filters": filters,
            },
            {
                "name": "plain",
                "filter_chain_match": {"transport_protocol": "raw_buffer", "direct_source_prefix_ranges": loopback},
                "filters": filters,
            },
        ],
    }
