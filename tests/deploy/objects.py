#!/usr/bin/env deploy-python
"""Holds rendered objects against the strict schemas of one Kubernetes version, and against what the chart promises.

    objects.py VERSION OBJECTS RULES

The groups of a PrometheusRule are written to RULES, for promtool. Objects of the Prometheus operator have no schema
here; they are compared with the fields that the chart may use.
"""

import sys

import kubernetes_validate
import yaml

OPERATOR = {
    "PrometheusRule": {"groups"},
    "PodMonitor": {"selector", "podMetricsEndpoints"},
}


def check_room(room: dict) -> list[str]:
    """What the chart promises of a pod, beyond the schema."""
    template = room["spec"]["template"]
    pod, faults = template["spec"], []
    (host,) = pod["containers"]

    def demand(is_so: bool, what: str) -> None:
        if not is_so:
            faults.append(f"expected {what}")

    arguments = host["args"]
    option = dict(zip(arguments, arguments[1:]))
    drain = int(option["--drain-timeout"].removesuffix("s"))
    sleep = host.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    demand(pod["terminationGracePeriodSeconds"] >= drain + sleep + 10, "time for the drain before SIGKILL")
    demand(pod["automountServiceAccountToken"] is False, "no token of the cluster in the pod")
    demand(pod["securityContext"]["runAsNonRoot"], "a user without rights")
    demand(host["securityContext"]["readOnlyRootFilesystem"], "a root file system that is read-only")
    demand(host["securityContext"]["capabilities"] == {"drop": ["ALL"]}, "no capabilities")
    demand(host["readinessProbe"]["httpGet"]["path"] == "/readyz", "readiness that asks /readyz")
    demand(host["livenessProbe"]["httpGet"]["path"] == "/healthz", "liveness that asks /healthz")
    (apart,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    for selector in (apart["labelSelector"], pod["topologySpreadConstraints"][0]["labelSelector"], room["spec"]["selector"]):
        demand(selector["matchLabels"].items() <= template["metadata"]["labels"].items(), "selectors that match the pod")
    demand({mount["name"] for mount in host["volumeMounts"]}
           <= {volume["name"] for volume in pod["volumes"]}
           | {claim["metadata"]["name"] for claim in room["spec"].get("volumeClaimTemplates", [])}, "a volume for each mount")
    if "nitro" in arguments:
        demand(host["resources"]["limits"]["aws.ec2.nitro/nitro_enclaves"] == "1", "one enclave from the device plugin")
        pages = next(value for name, value in host["resources"]["limits"].items() if name.startswith("hugepages-"))
        demand(pages == option["--memory"] + "Mi", "huge pages of the enclave's size")
        demand("--image-sha384" in arguments, "the digest of the image")
    return faults


def main(version: str, objects: str, rules: str) -> int:
    kinds, faults = set(), []
    open(rules, "w").close()
    with open(objects) as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        kinds.add(kind)
        if kind in OPERATOR:
            unknown = document["spec"].keys() - OPERATOR[kind]
            faults += [f"{kind} {name}: unknown {field}" for field in unknown]
            if kind == "PrometheusRule":
                with open(rules, "w") as file:
                    yaml.safe_dump(document["spec"], file)
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{kind} {name}: {error.path}: {error.message}")
        if kind == "StatefulSet":
            faults += [f"{kind} {name}: {fault}" for fault in check_room(document)]
    missing = {"StatefulSet", "Service", "PodDisruptionBudget"} - kinds
    faults += [f"no {kind}" for kind in missing]
    print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
