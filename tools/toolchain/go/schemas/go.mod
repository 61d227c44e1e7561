// Not built, only downloaded: the manifests are checked against the schemas in these modules.
// Go's checksum database has no entry for knative.dev/eventing v0.48.0, so its two hashes in go.sum are those of the
// first download; the other modules' were verified there.
module beads-dispatch/tools/schemas

go 1.24.0

require (
	k8s.io/kubernetes v1.34.1
	knative.dev/eventing v0.48.0
	knative.dev/eventing-rabbitmq v0.48.0
	knative.dev/serving v0.48.0
)
