"""The manifests, without a cluster: a strict API server accepts the output of kustomize, and the manifests are
complete, consistent with each other, and within Pod Security `restricted`."""

import json
import pathlib
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema
import pytest
import yaml

from beads_dispatch import events
from feeder import changes
from local import triggers
from tools import toolchain

ROOT = pathlib.Path(__file__).parents[2]
BASE = ROOT / "knative" / "base"
EXAMPLE = ROOT / "knative" / "overlays" / "example"
KAFKA = ROOT / "knative" / "overlays" / "kafka"
RABBITMQ = ROOT / "knative" / "overlays" / "rabbitmq"
FOLDERS = {"base": BASE, "example": EXAMPLE, "kafka": KAFKA, "rabbitmq": RABBITMQ}

OURS = ["feeder", "dispatch", "reap", "console"]
ADDRESSES = {name: f"http://{name}.test" for name in OURS}

Document = dict[str, Any]


def documents(path: pathlib.Path) -> list[Document]:
    return parsed(path.read_text())


def parsed(text: str) -> list[Document]:
    # libyaml's loader: Knative's definitions are thousands of lines.
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


@pytest.fixture(scope="session")
def built() -> Callable[[str], list[Document]]:
    """The output of `kustomize build` for one of FOLDERS."""
    try:
        kustomize = toolchain.kustomize()
    except toolchain.ToolError:
        pytest.skip("needs kustomize on PATH, or Go, which builds it; `python -m tools.toolchain kustomize` says why")
    done = {name: subprocess.run([kustomize, "build", path], capture_output=True) for name, path in FOLDERS.items()}

    def built(name: str) -> list[Document]:
        assert done[name].returncode == 0, done[name].stderr.decode()
        return parsed(done[name].stdout.decode())

    return built


@pytest.fixture(scope="session")
def schemas() -> "Schemas":
    try:
        return Schemas(toolchain.schemas())
    except toolchain.ToolError:
        pytest.skip("needs Go on PATH, which downloads the schemas; `python -m tools.toolchain schemas` says why")


class Schemas:
    """Kubernetes' OpenAPI and Knative's custom resource definitions, applied as strictly as an API server can."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.knative = folder / "knative.dev"
        self._openapi = folder / "k8s.io" / "kubernetes" / "api" / "openapi-spec" / "v3"
        self._components: dict[str, dict[str, Any]] = {}
        self._validators: dict[tuple[str, str], Any] = {}
        self._definitions = {
            (definition["spec"]["group"], definition["spec"]["names"]["kind"]): definition
            for path in (
                *self.knative.glob("*/config/core/resources/*"),
                *self.knative.glob("*/config/*/300-*"),
                *self.knative.glob("*/config/core/300-*/*"),
            )
            if path.is_file()
            for definition in documents(path)
        }

    def refusals(self, document: Document) -> list[str]:
        """The reasons for which the API server would refuse the document, with the field; empty if it would not."""
        version, kind = document["apiVersion"], document["kind"]
        if (version, kind) not in self._validators:
            schema = self._schema(version, kind)
            if schema is None:
                return [f"{version} {kind} is not served"]
            self._validators[version, kind] = jsonschema.Draft202012Validator(schema)
        errors = self._validators[version, kind].iter_errors(document)
        return [f"{error.json_path}: {error.message}" for error in errors]

    def _schema(self, api_version: str, kind: str) -> Document | None:
        group, _, version = api_version.rpartition("/")
        if (group, kind) in self._definitions:
            return self._custom(self._definitions[group, kind], version)
        components = self._kubernetes(group, version)
        for name, schema in components.items():
            known = schema.get("x-kubernetes-group-version-kind", [])
            if {"group": group, "version": version, "kind": kind} in known:
                return {"$ref": f"#/components/schemas/{name}", "components": {"schemas": components}}
        return None

    def _custom(self, definition: Document, version: str) -> Document | None:
        for offered in definition["spec"]["versions"]:
            if offered["name"] == version and offered["served"]:
                schema = closed(offered["schema"]["openAPIV3Schema"])
                metadata = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
                schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"$ref": metadata}}
                return {**schema, "components": {"schemas": self._kubernetes("", "v1")}}
        return None

    def _kubernetes(self, group: str, version: str) -> Mapping[str, Any]:
        path = self._openapi / (f"apis__{group}__{version}_openapi.json" if group else f"api__{version}_openapi.json")
        if path.name not in self._components:
            found = json.loads(path.read_text())["components"]["schemas"] if path.is_file() else {}
            self._components[path.name] = {name: closed(schema) for name, schema in found.items()}
        return self._components[path.name]


def closed(schema: Document) -> Document:
    """The schema, with unknown fields refused at every depth.

    Also where a definition has x-kubernetes-preserve-unknown-fields beside its known fields: there Knative's webhook
    refuses fields that its Go type does not have.
    """
    schema = dict(schema)
    if schema.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        schema["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
        schema.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            schema[name] = closed(schema[name])
    return schema


def everything() -> list[Document]:
    kustomization = documents(BASE / "kustomization.yaml")[0]
    return [document for name in kustomization["resources"] for document in documents(BASE / name)]


def named(found: list[Document], kind: str, name: str) -> Document:
    """The resource of that kind (of Knative Serving: KService) and name."""
    (document,) = [document for document in found if (kind_of(document), document["metadata"]["name"]) == (kind, name)]
    return document


def kind_of(document: Document) -> str:
    serving = document["apiVersion"].startswith("serving.knative.dev/")
    return f"K{document['kind']}" if serving else str(document["kind"])


def pods(found: list[Document]) -> dict[str, Document]:
    """The pods' templates, by the name of their Deployment or Knative Service."""
    return {
        document["metadata"]["name"]: document["spec"]["template"]
        for document in found
        if kind_of(document) in ("Deployment", "KService")
    }


def test_every_file_in_base_is_a_resource() -> None:
    """A manifest that is not listed is not deployed."""
    listed = documents(BASE / "kustomization.yaml")[0]["resources"]
    assert listed == sorted(listed)
    assert {path.name for path in BASE.glob("*.yaml")} == {*listed, "kustomization.yaml"}


# In each kind that is deployed: a misspelt field, a wrong type, a missing field, an unknown version.
MISTAKES: list[tuple[str, str, str, Any, str]] = [
    ("Deployment", "feeder", "spec.replica", 1, "'replica' was unexpected"),
    ("Deployment", "feeder", "spec.replicas", "1", "$.spec.replicas: '1' is not of type 'integer'"),
    ("Deployment", "feeder", "spec.template.spec.containers.0.readynessProbe", {}, "'readynessProbe' was"),
    ("Deployment", "feeder", "spec.selector", None, "None is not of type 'object'"),
    ("Service", "feeder", "spec.ports.0.port", "80", "'80' is not of type 'integer'"),
    ("ConfigMap", "beads-dispatch", "data.MAX_IN_FLIGHT", 1, "1 is not of type 'string'"),
    ("ServiceAccount", "reap", "automountServiceAccountTokens", False, "'automountServiceAccountTokens' was"),
    ("Role", "feeder", "rules.0.verb", ["get"], "'verb' was unexpected"),
    ("RoleBinding", "feeder", "roleRef", {"kind": "Role", "name": "feeder"}, "'apiGroup' is a required property"),
    ("NetworkPolicy", "feeder-broker", "spec.egres", [], "'egres' was unexpected"),
    ("NetworkPolicy", "feeder-broker", "spec.policyTypes", "Egress", "'Egress' is not of type 'array'"),
    ("NetworkPolicy", "feeder-broker", "spec.ingress.0.from.0.nameSelector", {}, "'nameSelector' was"),
    ("NetworkPolicy", "feeder-broker", "apiVersion", "networking.k8s.io/v2", "is not served"),
    ("KService", "dispatch", "spec.template.spec.timeoutSecond", 300, "'timeoutSecond' was unexpected"),
    ("KService", "dispatch", "spec.template.spec.containerConcurrency", "1", "'1' is not of type 'integer'"),
    ("KService", "dispatch", "spec.template.spec.volumes.0.secretName", "dolt", "'secretName' was unexpected"),
    ("KService", "dispatch", "metadata.label", {}, "$.metadata: Additional properties"),
    ("Trigger", "tick-dispatch", "spec.subscribr", {}, "'subscribr' was unexpected"),
    ("Trigger", "tick-dispatch", "spec.delivery.retries", 2, "'retries' was unexpected"),
    ("Trigger", "tick-dispatch", "spec.delivery.retry", "2", "$.spec.delivery.retry: '2' is not of type"),
    ("Trigger", "tick-dispatch", "spec.filter.attribute", {}, "'attribute' was unexpected"),
    ("Broker", "default", "spec", {"configs": {}}, "'configs' was unexpected"),
    ("RabbitmqBrokerConfig", "rabbitmq", "spec.queueType", "quorums", "'quorums' is not one of"),
    ("RabbitmqBrokerConfig", "rabbitmq", "spec.rabbitmqClusterReference.secret", {}, "'secret' was unexpected"),
    ("PingSource", "dispatch", "spec.suspend", True, "'suspend' was unexpected"),
    ("PingSource", "dispatch", "spec.schedule", 2, "2 is not of type 'string'"),
    ("SinkBinding", "feeder", "spec.subject.nam", "feeder", "'nam' was unexpected"),
    ("EventType", events.ISSUE_CHANGED, "spec.attributes.0.requierd", True, "'requierd' was unexpected"),
    ("EventType", events.ISSUE_CHANGED, "spec.attributes.0.required", "true", "is not of type 'boolean'"),
    ("EventType", events.ISSUE_CHANGED, "apiVersion", "eventing.knative.dev/v1", "is not served"),
]


class TestSchemas:
    """The output of `kustomize build`, against the API server's schemas."""

    @pytest.mark.parametrize("name", FOLDERS)
    def test_the_api_server_accepts_every_manifest(
        self, built: Callable[[str], list[Document]], schemas: Schemas, name: str
    ) -> None:
        """Each resource has a served kind, and known fields of the right types."""
        refused = {
            f"{document['kind']} {document['metadata']['name']}": reasons
            for document in built(name)
            if (reasons := schemas.refusals(document))
        }
        assert refused == {}

    @pytest.mark.parametrize(("kind", "name", "field", "value", "reason"), MISTAKES)
    def test_a_mistake_is_refused(
        self,
        built: Callable[[str], list[Document]],
        schemas: Schemas,
        kind: str,
        name: str,
        field: str,
        value: Any,
        reason: str,
    ) -> None:
        """One mistake gives one reason that names it; without the mistake there is none."""
        document = named(built("rabbitmq"), kind, name)
        assert schemas.refusals(document) == []
        inside: Any = document
        *way, last = (int(part) if part.isdigit() else part for part in field.split("."))
        for part in way:
            inside = inside[part]
        inside[last] = value
        (refusal,) = schemas.refusals(document)
        assert reason in refusal

    def test_every_deployed_kind_has_a_mistake(self, built: Callable[[str], list[Document]]) -> None:
        """For each kind that is deployed, MISTAKES has one that is refused."""
        assert {kind_of(document) for document in built("rabbitmq")} == {kind for kind, *_ in MISTAKES}


class TestPods:
    @pytest.mark.parametrize("name", OURS)
    def test_each_pod_is_within_the_restricted_standard(self, name: str) -> None:
        """Non-root, read-only, no capabilities, no token, a memory limit."""
        pod = pods(everything())[name]["spec"]
        assert pod["automountServiceAccountToken"] is (name == "feeder")
        assert pod["serviceAccountName"] == name
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["resources"]["limits"]["memory"]
        assert all(mount["readOnly"] for mount in container["volumeMounts"])
        assert not [
            variable
            for variable in container["env"]
            if "PASSWORD" in variable["name"] and "FILE" not in variable["name"]
        ]

    def test_the_feeder_may_watch_pingsources_and_nothing_else(self) -> None:
        """One role, one rule, read only."""
        (role,) = [found for found in everything() if found["kind"] == "Role"]
        assert role["rules"] == [
            {"apiGroups": ["sources.knative.dev"], "resources": ["pingsources"], "verbs": ["get", "list", "watch"]}
        ]
        (binding,) = [found for found in everything() if found["kind"] == "RoleBinding"]
        assert [subject["name"] for subject in binding["subjects"]] == ["feeder"]
        assert not [found for found in everything() if found["kind"].startswith("ClusterRole")]

    def test_the_functions_scale_to_zero_and_one_pod_serves_all_agents(self) -> None:
        """The annotations for scaling are on the template; an agent's pass does not wait for another agent's."""
        for found in everything():
            if kind_of(found) == "KService":
                template = found["spec"]["template"]
                annotations = template["metadata"]["annotations"]
                assert annotations["autoscaling.knative.dev/min-scale"] == "0"
                assert annotations["autoscaling.knative.dev/max-scale"] == "1"
                (container,) = template["spec"]["containers"]
                threads = {variable["name"]: variable.get("value") for variable in container["env"]}["THREADS"]
                assert template["spec"]["containerConcurrency"] == int(threads) > 1


class TestTriggers:
    def test_triggers_refer_to_deployed_services(self) -> None:
        """Every subscriber and dead letter sink is a Service of this base."""
        services = {
            (found["apiVersion"], found["metadata"]["name"]) for found in everything() if found["kind"] == "Service"
        }
        for trigger in (found for found in everything() if found["kind"] == "Trigger"):
            refs = [trigger["spec"]["subscriber"]["ref"]]
            refs += [sink["ref"] for sink in [trigger["spec"].get("delivery", {}).get("deadLetterSink")] if sink]
            assert {(ref["apiVersion"], ref["name"]) for ref in refs} <= services

    @pytest.mark.parametrize("name", FOLDERS)
    def test_the_local_router_uses_the_deployed_triggers(
        self, built: Callable[[str], list[Document]], tmp_path: pathlib.Path, name: str
    ) -> None:
        """The Triggers that it reads from base equal those that kustomize builds: filters, subscribers, delivery."""
        (tmp_path / "built.yaml").write_text(yaml.safe_dump_all(built(name)))
        deployed = {trigger.name: trigger for trigger in triggers.load_triggers(tmp_path, ADDRESSES)}
        local = {trigger.name: trigger for trigger in triggers.load_triggers(BASE, ADDRESSES)}
        assert len(local) == 4
        assert deployed == local


class TestEventTypes:
    """The EventTypes describe the events that are sent."""

    CHANGE = changes.Change(
        id="0d3a:7:1",
        sequence="00000000000000000007.000001",
        bead="x-1",
        title="A bead",
        priority=2,
        before={"assignee": None, "status": "open"},
        after={"assignee": "agent", "status": "open"},
        actor="alice",
    )
    GONE = changes.Change(
        id="c0ffee:1",
        sequence="c0ffee",
        bead="x-1",
        title="",
        priority=None,
        before={"assignee": "agent", "status": "open"},
        after={"assignee": None, "status": None},
        recovered=True,
    )
    SENT = (
        changes.to_event(CHANGE, "beads"),
        changes.to_event(GONE, "beads"),
        changes.request(changes.RequestReason("slot", "0d3a:7:1"), 3, events.DISPATCH_REQUESTED),
        changes.request(changes.RequestReason("tick", "1-2-3"), 1, events.REAP_REQUESTED),
    )

    @pytest.mark.parametrize("event", SENT, ids=["change", "recovered", "dispatch", "reap"])
    def test_an_event_has_the_attributes_that_its_type_declares(self, event: events.Event) -> None:
        """Only declared attributes, every required one, and values of the declared form."""
        attributes = {
            attribute["name"]: attribute
            for attribute in named(everything(), "EventType", event.type)["spec"]["attributes"]
        }
        headers, _ = events.to_http(event)
        sent = {name.removeprefix("ce-"): value for name, value in headers.items() if name != "content-type"}
        sent["datacontenttype"] = headers["content-type"]
        assert sent.keys() <= attributes.keys()
        assert {name for name, attribute in attributes.items() if attribute["required"]} <= sent.keys()
        for name, value in sent.items():
            form = re.sub(r"\\{\w+\\}", ".+", re.escape(attributes[name]["value"]))
            assert re.fullmatch(form, value), name

    @pytest.mark.parametrize("event", SENT, ids=["change", "recovered", "dispatch", "reap"])
    def test_the_description_names_extensions_and_data(self, event: events.Event) -> None:
        """Knative stores only the type, source and description of an EventType."""
        description = named(everything(), "EventType", event.type)["spec"]["description"]
        words = set(re.findall(r"\w+", description))
        assert event.extensions.keys() | event.data.keys() <= words

    def test_every_type_of_ours_is_declared(self) -> None:
        """One EventType for each type that the feeder sends, with the same name and our Broker."""
        ours = {events.ISSUE_CHANGED, events.DISPATCH_REQUESTED, events.REAP_REQUESTED}
        found = {each["metadata"]["name"]: each["spec"] for each in everything() if each["kind"] == "EventType"}
        assert found.keys() == ours
        assert {spec["reference"]["name"] for spec in found.values()} == {"default"}


class TestNetworkPolicies:
    """Not every cluster enforces them, so the tests evaluate them as Kubernetes defines them."""

    DNS = "kube-system k8s-app=kube-dns"
    DOLT = "own app=dolt 3306/TCP"
    BEADBOARD = "own app=beadboard 3000/TCP"
    BROKER = "knative-eventing eventing.knative.dev/brokerRole"
    FROM_SERVING = (
        "knative-serving app=activator 8012/TCP",
        "knative-serving app=activator 8112/TCP",
        "knative-serving app=autoscaler 9090/TCP",
    )
    RESOLVE = (f"{DNS} 53/UDP", f"{DNS} 53/TCP")
    API_SERVER = ("anywhere 443/TCP", "anywhere 6443/TCP")

    @pytest.mark.parametrize(
        ("pod", "incoming", "outgoing"),
        [
            (
                "feeder",
                {f"{BROKER}=filter 8080/TCP"},
                {*RESOLVE, DOLT, BEADBOARD, *API_SERVER, f"{BROKER}=ingress 8080/TCP"},
            ),
            ("dispatch", {*FROM_SERVING}, {*RESOLVE, DOLT, BEADBOARD}),
            ("reap", {*FROM_SERVING}, {*RESOLVE, DOLT, BEADBOARD}),
            ("console", {*FROM_SERVING}, {*RESOLVE, DOLT}),
        ],
    )
    def test_each_pod_is_reached_and_reaches_only_what_it_needs(
        self, built: Callable[[str], list[Document]], pod: str, incoming: set[str], outgoing: set[str]
    ) -> None:
        """All allowed traffic; the rest is refused, because a policy selects the pod in that direction."""
        assert allowed(built("example"), pod, "Ingress") == incoming
        assert allowed(built("example"), pod, "Egress") == outgoing

    @pytest.mark.parametrize(
        ("broker", "delivers", "receives"),
        [
            ("kafka", "knative-eventing app=kafka-broker-dispatcher", "knative-eventing app=kafka-broker-receiver"),
            (
                "rabbitmq",
                "own eventing.knative.dev/brokerRole=dispatcher",
                "own eventing.knative.dev/brokerRole=ingress",
            ),
        ],
    )
    def test_with_another_broker_the_feeder_connects_to_that_instead(
        self, built: Callable[[str], list[Document]], broker: str, delivers: str, receives: str
    ) -> None:
        """Its pods have other labels, or are elsewhere; everything else is the same."""
        assert allowed(built(broker), "feeder", "Ingress") == {f"{delivers} 8080/TCP"}
        changed = allowed(built(broker), "feeder", "Egress") ^ allowed(built("example"), "feeder", "Egress")
        assert changed == {f"{receives} 8080/TCP", f"{self.BROKER}=ingress 8080/TCP"}
        for name in ("dispatch", "reap"):
            for direction in ("Ingress", "Egress"):
                assert allowed(built(broker), name, direction) == allowed(built("example"), name, direction)

    @pytest.mark.parametrize("pod", OURS)
    def test_base_alone_reaches_neither_dolt_nor_the_agent(
        self, built: Callable[[str], list[Document]], pod: str
    ) -> None:
        """An overlay without their addresses is closed, not open."""
        outgoing = allowed(built("base"), pod, "Egress")
        assert {*self.RESOLVE} <= outgoing
        assert not [line for line in outgoing if line.startswith(("own", "anywhere 3"))]

    @pytest.mark.parametrize("labels", [{"app": "dolt"}, {"app": "feeder"}, {"serving.knative.dev/service": "other"}])
    def test_other_pods_are_not_selected(self, built: Callable[[str], list[Document]], labels: dict[str, str]) -> None:
        """The namespace may be shared: a policy that selected other pods would cut them off."""
        policies = [found for found in built("example") if found["kind"] == "NetworkPolicy"]
        assert not [found for found in policies if selects(found["spec"]["podSelector"], labels)]

    def test_knative_s_pods_have_the_labels_that_are_selected(
        self, built: Callable[[str], list[Document]], schemas: Schemas
    ) -> None:
        """Knative's own Deployments, of the pinned version: if a label is renamed there, this test fails."""
        paths = [*schemas.knative.glob("*/config/**/deployments/*.yaml")]
        theirs = [found for path in paths for found in documents(path) if found["kind"] == "Deployment"]
        peers = [peer for found in built("example") if found["kind"] == "NetworkPolicy" for peer in peers_of(found)]
        selected = [peer for peer in peers if "knative" in namespace_of(peer)]
        assert len(selected) == 6
        for peer in selected:
            assert [
                deployment
                for deployment in theirs
                if deployment["metadata"]["namespace"] == namespace_of(peer)
                and selects(peer["podSelector"], deployment["spec"]["template"]["metadata"]["labels"])
            ], peer

    def test_the_ports_are_the_listening_ports(self, built: Callable[[str], list[Document]]) -> None:
        """The feeder's port is its PORT; Dolt's and BeadBoard's are those of the addresses in the overlay."""
        (feeder,) = pods(built("example"))["feeder"]["spec"]["containers"]
        environment = {variable["name"]: variable.get("value") for variable in feeder["env"]}
        assert environment["PORT"] == str(feeder["ports"][0]["containerPort"]) == "8080"
        workspace = json.loads((EXAMPLE / "metadata.json").read_text())
        assert self.DOLT.endswith(f" {workspace['dolt_server_port']}/TCP")
        settings = named(built("example"), "ConfigMap", "beads-dispatch")["data"]
        assert settings["BEADBOARD_URL"].endswith(":3000")


def allowed(found: list[Document], pod: str, direction: str) -> set[str]:
    """The peers that the policies allow for the pod, as `<namespace> <labels> <port>/<protocol>`.

    Fails when no policy selects the pod in that direction, because then everything is allowed.
    """
    labels = dict(pods(found)[pod]["metadata"]["labels"])
    if pod != "feeder":
        labels["serving.knative.dev/service"] = pod  # Knative Serving sets it
    policies = [
        each["spec"]
        for each in found
        if each["kind"] == "NetworkPolicy"
        and direction in each["spec"]["policyTypes"]
        and selects(each["spec"]["podSelector"], labels)
    ]
    assert policies, f"no policy selects {pod} for {direction}"
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
    side = {"Ingress": "from", "Egress": "to"}[direction]
    return {
        f"{peer} {port['port']}/{port.get('protocol', 'TCP')}"
        for rule in rules
        for peer in ([described(peer) for peer in rule[side]] if side in rule else ["anywhere"])
        for port in rule["ports"]  # fails for a rule without ports, which would allow all of them
    }


def selects(selector: Document, labels: Mapping[str, str]) -> bool:
    """As Kubernetes defines it, for the two operators in use: NotIn also selects a pod without the label."""
    matches = [
        (labels.get(each["key"]) in each["values"]) is {"In": True, "NotIn": False}[each["operator"]]
        for each in selector.get("matchExpressions", [])
    ]
    return all(matches) and selector.get("matchLabels", {}).items() <= labels.items()


def peers_of(policy: Document) -> Iterator[Document]:
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for rule in policy["spec"].get(direction, []):
            yield from rule.get(side, [])


def namespace_of(peer: Document) -> str:
    """The peer's namespace; `own` when it names none, which is the policy's."""
    labels = peer.get("namespaceSelector", {}).get("matchLabels", {})
    return str(labels.get("kubernetes.io/metadata.name", "own"))


def described(peer: Document) -> str:
    ((label, value),) = peer["podSelector"]["matchLabels"].items()  # fails for a peer without labels: every pod
    return f"{namespace_of(peer)} {label}={value}"


def settings_of_the_broker(found: list[Document], broker_class: str) -> Document:
    """What the Broker of that class refers to, which is in its namespace."""
    broker = named(found, "Broker", "default")
    assert broker["metadata"]["annotations"] == {"eventing.knative.dev/broker.class": broker_class}
    config = broker["spec"]["config"]
    settings = named(found, config["kind"], config["name"])
    assert settings["metadata"]["namespace"] == broker["metadata"]["namespace"]
    return settings


class TestKafka:
    def test_the_broker_has_the_kafka_class_and_its_settings(self, built: Callable[[str], list[Document]]) -> None:
        """The class, and a ConfigMap of that name in the Broker's namespace, with all three keys."""
        settings = settings_of_the_broker(built("kafka"), "Kafka")
        assert settings["data"].keys() == {
            "bootstrap.servers",
            "default.topic.partitions",
            "default.topic.replication.factor",
        }

    def test_no_trigger_of_ours_is_ordered(self, built: Callable[[str], list[Document]]) -> None:
        """Requests and ticks are hints; one that is retried must not delay the others."""
        orders = {
            found["metadata"]["name"]: found["metadata"]["annotations"]["kafka.eventing.knative.dev/delivery.order"]
            for found in built("kafka")
            if found["kind"] == "Trigger"
        }
        assert len(orders) == 4
        assert set(orders.values()) == {"unordered"}

    def test_the_values_of_the_user_are_marked(self) -> None:
        """Kafka's address, its number of copies, and the namespace, which is in the example too."""
        lines = [line for line in (KAFKA / "kustomization.yaml").read_text().splitlines() if "# yours" in line]
        assert [re.split(r"[:=]", line.strip(" -"))[0] for line in lines] == [
            "namespace",
            "bootstrap.servers",
            "default.topic.replication.factor",
        ]


class TestRabbitmq:
    def test_the_broker_has_its_class_and_a_quorum_queue(self, built: Callable[[str], list[Document]]) -> None:
        """A configuration in the Broker's namespace, which names the Secret there."""
        settings = settings_of_the_broker(built("rabbitmq"), "RabbitMQBroker")
        assert settings["spec"]["queueType"] == "quorum"
        assert settings["spec"]["rabbitmqClusterReference"]["namespace"] == settings["metadata"]["namespace"]

    def test_a_slow_pass_delays_no_other_agents(self, built: Callable[[str], list[Document]]) -> None:
        """Each Trigger delivers as many at once as a function's container takes."""
        found = {
            name: found["metadata"]["annotations"]["rabbitmq.eventing.knative.dev/parallelism"]
            for found in built("rabbitmq")
            if found["kind"] == "Trigger" and (name := found["metadata"]["name"])
        }
        assert len(found) == 4
        concurrency = named(built("rabbitmq"), "KService", "dispatch")["spec"]["template"]["spec"][
            "containerConcurrency"
        ]
        assert set(found.values()) == {str(concurrency)}

    def test_no_trigger_has_filters(self, built: Callable[[str], list[Document]]) -> None:
        """This Broker ignores them, and would deliver every event."""
        examples = [document for path in (ROOT / "examples").rglob("*.yaml") for document in documents(path)]
        found = [each for each in (*built("rabbitmq"), *examples) if each["kind"] == "Trigger"]
        assert len(found) == 6
        assert all(each["spec"]["filter"]["attributes"] and "filters" not in each["spec"] for each in found)

    def test_the_values_of_the_user_are_marked(self) -> None:
        """The namespace, which is in the example too, and where the Secret is."""
        texts = [path.read_text() for path in sorted(RABBITMQ.iterdir())]
        lines = [line for text in texts for line in text.splitlines() if "# yours" in line]
        assert [line.split("#")[0].strip() for line in lines] == ["namespace: beads", "namespace: beads"]


class TestExample:
    """All values that the user sets are marked in the example's kustomization.yaml, and nowhere else."""

    def test_base_has_no_values_of_the_user(self) -> None:
        """No address, no password, no namespace."""
        text = "".join(path.read_text() for path in BASE.glob("*.yaml"))
        assert "BEADBOARD_URL:" not in text and "dolt_server_host" not in text
        assert not [found for found in everything() if "namespace" in found["metadata"]]
        assert "# yours" not in text

    def test_every_added_value_is_marked(self, built: Callable[[str], list[Document]]) -> None:
        """Every value that is not in base is on a line marked `# yours`, or below it, or in a file named there."""
        marked = marked_values(EXAMPLE / "kustomization.yaml")
        base = [*leaves(built("base"))]
        added = {str(value) for path, value in leaves(built("example")) if (path, value) not in base}
        assert len(added) > 6
        # An image is two values in the overlay: its name and its tag.
        assert [value for value in added if value not in marked and not {*value.rsplit(":", 1)} <= marked] == []


def leaves(found: list[Document]) -> Iterator[tuple[str, Any]]:
    """Every value in the resources, with its path; apiVersion and kind do not count."""

    def below(path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict | list):
            yield path, value
            return
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in ("apiVersion", "kind"):
                yield from below(f"{path}.{key}", part)

    for document in found:
        yield from below(f"{kind_of(document)} {document['metadata']['name']}", document)


def marked_values(path: pathlib.Path) -> set[str]:
    """The words of the lines marked `# yours` and of the more indented ones below; the whole of a file they name."""
    found: set[str] = set()
    depth: int | None = None
    for line in path.read_text().splitlines():
        indent = len(line) - len(line.lstrip())
        if "# yours" in line:
            depth = indent
        elif depth is not None and indent <= depth:
            depth = None
        if depth is not None:
            words = {word.removesuffix(":") for word in re.split(r"[][{}\s,=]+", line.split("#")[0])}
            found |= words | {(path.parent / word).read_text() for word in words if word.endswith(".json")}
    return found
