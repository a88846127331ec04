// Package kube tries what secexec says to Kubernetes against Kubernetes itself:
// a kube-apiserver and a kube-scheduler built from their sources, and Debian's
// etcd. There is no kubelet and no container runtime: nodes are objects, and
// pods end at the node that the scheduler chose.
//
// It is a module of its own, so that none of Kubernetes' modules becomes one of
// secexec's. It imports nothing of secexec either: like a cluster's administrator
// it knows the programs, their manifests and the names in docs/kubernetes.md.
//
// Another version of Kubernetes is another version of k8s.io/kubernetes in go.mod,
// of all that it replaces (v0.N.M goes with v1.N.M), and `go mod tidy`.
//
// `make test-kube` builds and fetches what it needs (cross/setup.sh kube) and
// runs it; results lie in results/.
package kube
