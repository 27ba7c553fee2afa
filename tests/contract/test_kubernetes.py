"""The Kubernetes adapters beside the promises that they share with the others: what they write, and what they make of a no."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tasks.adapters import kubernetes_api
from tasks.adapters.envoy import Traffic
from tasks.adapters.kubernetes_api import KubernetesApi, in_cluster
from tasks.adapters.kubernetes_launcher import KubernetesLauncher
from tasks.adapters.kubernetes_router import GatewayApiRouter, rules, unconfirmed
from tasks.domain.errors import InputRejected, Unavailable
from tests.kubernetes_cluster import NAME, Cluster, needs_emulator, pattern
from tests.rollout_builders import A, B

SCHEMA = json.loads((Path(__file__).parents[2] / "infra/helm/schemas/HTTPRoute.json").read_text())
BOTH = {A: (8080,), B: (8080,)}
PLANS = {
    "shadow": Traffic(weights={A: 100, B: 0}, backends=BOTH, mirror=B),
    "canary": Traffic(weights={A: 80, B: 20}, backends=BOTH),
    "full": Traffic(weights={B: 100}, backends=BOTH, mirror=A),
    "nothing": Traffic(backends=BOTH),
}
METRICS = (
    'freshrank_requests_total{route="rank",status="200"} 7.0\nfreshrank_requests_total{route="rank",status="503"} 2.0\n'
)
METRICS += "freshrank_pending 3.0\n# TYPE freshrank_rank_seconds histogram\n"
METRICS += 'freshrank_rank_seconds_bucket{le="0.005"} 4.0\nfreshrank_rank_seconds_bucket{le="+Inf"} 9.0\n'


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found = Cluster(pattern())
    yield found
    found.close()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_plan_is_a_route_that_the_schema_knows(plan: Traffic) -> None:
    route = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    route |= {"metadata": {"name": NAME, "namespace": "ranking"}}
    route |= {"spec": {"parentRefs": [{"name": "public"}], "rules": rules(plan, NAME)}}
    jsonschema.Draft7Validator(SCHEMA).validate(route)


def weights(plan: str) -> dict[str, int]:
    (ranked,) = [one for one in rules(PLANS[plan], NAME) if one["matches"] == [{"path": RANK, "method": "POST"}]]
    return {one["name"].removeprefix(f"{NAME}-"): one["weight"] for one in ranked["backendRefs"]}


RANK = {"type": "Exact", "value": "/rank"}


def test_weights_copies_and_the_header() -> None:
    assert weights("canary") == {A[:12]: 80, B[:12]: 20}
    assert weights("shadow") == {A[:12]: 100} and weights("full") == {B[:12]: 100} and weights("nothing") == {}
    text = json.dumps(rules(PLANS["shadow"], NAME))
    assert text.count("RequestMirror") == 1 and B in text and f'"{B[:12]}"' in text


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({}, "no Gateway has looked at it"),
        ({"parents": [{"conditions": []}]}, "Accepted is not said of generation 4 yet"),
        (
            {"parents": [{"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 3}]}]},
            "generation 4",
        ),
    ],
)
def test_a_route_is_in_force_only_once_a_gateway_says_so_of_this_generation(status: dict[str, Any], says: str) -> None:
    assert says in str(unconfirmed({"metadata": {"generation": 4}, "status": status}))


@needs_emulator
def test_a_gateway_that_refuses_the_route_is_told(cluster: Cluster) -> None:
    async def scenario() -> None:
        cluster.route()
        router = GatewayApiRouter(cluster.api(), NAME, confirm_s=0.5)
        with pytest.raises(Unavailable, match="no Gateway has looked at it"):
            await router.apply(PLANS["canary"])
        async with cluster.gateway(status="False", reason="BackendNotFound"):
            with pytest.raises(Unavailable, match="Accepted is False: BackendNotFound"):
                await router.apply(PLANS["canary"])

    asyncio.run(scenario())


@needs_emulator
def test_no_route_and_no_api_are_sentences(cluster: Cluster) -> None:
    async def scenario() -> None:
        with pytest.raises(Unavailable, match=f"there is no HTTPRoute {NAME}; install the chart"):
            await GatewayApiRouter(cluster.api(), NAME).apply(PLANS["canary"])
        with pytest.raises(Unavailable, match="the Kubernetes API does not answer GET"):
            await KubernetesApi("http://127.0.0.1:1", "ranking").get("HTTPRoute", NAME)

    asyncio.run(scenario())


@needs_emulator
def test_what_somebody_else_wrote_into_the_route_is_put_right(cluster: Cluster) -> None:
    async def scenario() -> None:
        cluster.route()
        router = GatewayApiRouter(cluster.api(), NAME)
        async with cluster.gateway():
            await router.apply(PLANS["canary"])
            cluster.patch("HTTPRoute", NAME, {"spec": {"rules": []}})
            await router.apply(PLANS["canary"])
        (route,) = cluster.objects("HTTPRoute")
        assert route["spec"]["rules"] == rules(PLANS["canary"], NAME)

    asyncio.run(scenario())


@needs_emulator
def test_counts_are_those_of_the_pods(cluster: Cluster) -> None:
    async def scenario() -> None:
        cluster.run(A).metrics = METRICS
        router = GatewayApiRouter(cluster.api(), NAME)
        assert await router.latencies() == {A[:12]: {5.0: 4}}
        seen = await router.observe()
        assert {release: one.model_dump() for release, one in seen.items()} == {
            A[:12]: {"requests": 9, "errors": 2, "timeouts": 0, "active": 3, "healthy": True}
        }

    asyncio.run(scenario())


def launcher(cluster: Cluster, check: Any = lambda release: None) -> KubernetesLauncher:
    return KubernetesLauncher(cluster.api(), cluster.pattern, check)


@needs_emulator
def test_a_release_comes_and_goes_with_all_its_objects(cluster: Cluster, tmp_path: Path) -> None:
    async def scenario() -> None:
        one = launcher(cluster)
        await one.start(A, tmp_path, tmp_path)
        kinds = ("Deployment", "Service", "HorizontalPodAutoscaler")
        for kind in kinds:
            (made,) = cluster.objects(kind)
            assert made["metadata"]["name"] == f"{NAME}-{A[:12]}" and "0" * 12 not in json.dumps(made)
        await one.stop(A)
        assert [cluster.objects(kind) for kind in kinds] == [[], [], []]

    asyncio.run(scenario())


@needs_emulator
def test_a_release_that_is_refused_makes_no_pod(cluster: Cluster, tmp_path: Path) -> None:
    checked: list[str] = []

    def refuse(release: str) -> None:
        checked.append(release)
        raise InputRejected("nobody who is trusted here signed it")

    async def scenario() -> None:
        one = launcher(cluster, refuse)
        await one.start(A, tmp_path, tmp_path)
        assert (one.replicas()[A].state, cluster.objects("Deployment")) == ("down", [])
        assert "refused: nobody who is trusted" in one.replicas()[A].message
        await one.tick()
        assert checked == [A], "hashing every file again in every pass would keep a core busy"

    asyncio.run(scenario())


@needs_emulator
def test_a_pod_of_another_release_is_never_ready_and_a_restart_is_another_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def scenario() -> None:
        one = launcher(cluster)
        await one.start(A, tmp_path, tmp_path)
        cluster.kubelet()
        cluster.pods[A].claims = B
        await one.tick()
        assert one.replicas()[A].state == "starting" and "answers as release bbbb" in one.replicas()[A].message
        cluster.pods[A].claims = A
        await one.tick()
        first = one.replicas()[A]
        assert first.state == "ready" and httpx.get(f"{first.url}/readyz").json() == {"release": A}
        cluster.crash(A)
        await one.tick()
        assert one.replicas()[A].state == "down"
        cluster.kubelet()
        await one.tick()
        assert one.replicas()[A].state == "ready" and one.replicas()[A].pid != first.pid

    asyncio.run(scenario())


def test_outside_a_cluster_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kubernetes_api, "ACCOUNT", tmp_path / "nothing")
    with pytest.raises(InputRejected, match="this is no pod of the chart; unset FRESHRANK_KUBERNETES_ROUTE"):
        in_cluster("kubernetes_route", "use the local Envoy")
