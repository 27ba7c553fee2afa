"""What a release runs on and with: CycloneDX 1.6, for scanners and for whoever asks the day a library is found unsafe.

The same inputs make the same bytes: no clock, and the serial number is made from the content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from tasks.domain.manifest import canonical_json
from tasks.serving.release import file_digests

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

SBOM_JSON = "sbom.cdx.json"
MODELS = ("model", "text", "search")  # folders of a release that hold weights
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)")
SHA256 = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill_of_materials(release: Path, requirements: Sequence[str], partition: str) -> bytes:
    """Canonical CycloneDX 1.6 JSON of the weights in `release` and of the Python packages that serve them.

    Args:
        requirements: `name==version --hash=sha256:...`, as `locked_requirements` gives them.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    bom = Bom()
    served = Component(name="freshrank-ranker", type=ComponentType.APPLICATION, version=partition, bom_ref="release")
    bom.metadata.component = served
    parts = [_package(text) for text in requirements]
    for name in (name for name in MODELS if (release / name).is_dir()):
        files = [
            Component(
                name=path,
                type=ComponentType.FILE,
                bom_ref=f"{name}/{path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            )
            for path, digest in file_digests(release / name).items()
        ]
        kind = ComponentType.MACHINE_LEARNING_MODEL
        parts.append(Component(name=name, type=kind, version=partition, bom_ref=name, components=files))
    bom.components.update(parts)
    bom.register_dependency(served, parts)
    told = json.loads(JsonV1Dot6(bom).output_as_string())
    del told["metadata"]["timestamp"], told["serialNumber"]
    told["serialNumber"] = uuid5(NAMESPACE_URL, canonical_json(told).decode()).urn
    return canonical_json(told)


def _package(requirement: str) -> Component:
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    pin = PIN.match(requirement)
    if pin is None:
        raise ValueError(f"{requirement.split()[0]!r} is not pinned by ==; run `make lock`")
    name, version = pin["name"], pin["version"]
    purl = PackageURL("pypi", name=name, version=version)
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in SHA256.findall(requirement)]
    where = XsUri(f"https://pypi.org/project/{name}/{version}/")
    file = ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=where, hashes=hashes)
    told = metadata.metadata(name).json.get("license_expression")
    licenses = [LicenseFactory().make_with_expression(str(told))] if told else []
    return Component(
        name=name,
        version=version,
        bom_ref=str(purl),
        purl=purl,
        external_references=[file],
        licenses=licenses,
    )
