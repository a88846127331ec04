package kube

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// cluster is a control plane of the test's own: etcd, kube-apiserver and, once
// it is asked for, kube-scheduler. There is no controller manager: what it would
// do that a test needs (service accounts, pods of a Deployment), the test does.
type cluster struct {
	dir    string
	ca     *authority
	etcd   *process
	api    *process
	config *rest.Config         // of an administrator
	client kubernetes.Interface // the same
}

// program returns a program that `cross/setup.sh kube` left in the cache, and
// skips the test where there is none.
func program(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(cacheDir(), "kube", "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no %s: run cross/setup.sh kube (make test-kube)", path)
	}
	return path
}

// ours returns a program of this repository, which `make build` makes.
func ours(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(repository(), "build", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no %s: run make build (make test-kube)", path)
	}
	return path
}

// repository returns the folder of the whole repository.
func repository() string {
	_, file, _, _ := goruntime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// cacheDir returns the folder that cross/setup.sh fills.
func cacheDir() string {
	if dir := os.Getenv("SECEXEC_CACHE"); dir != "" {
		return dir
	}
	return filepath.Join(repository(), ".cache")
}

// newCluster starts etcd and kube-apiserver. All of it, processes and files, goes
// with the test.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	etcd, apiserver := program(t, "etcd"), program(t, "kube-apiserver")
	program(t, "kube-scheduler")
	dir := t.TempDir()
	c := &cluster{dir: dir, ca: newAuthority(t, dir)}

	clients, peers := freePort(t), freePort(t)
	c.etcd = start(t, dir, "etcd", etcd,
		"--data-dir", filepath.Join(dir, "etcd"),
		"--listen-client-urls", loopback(clients), "--advertise-client-urls", loopback(clients),
		"--listen-peer-urls", loopback(peers), "--initial-advertise-peer-urls", loopback(peers),
		"--initial-cluster", "default="+loopback(peers), "--snapshot-count", "100000")

	cert, key := c.ca.issue(t, "kube-apiserver")
	private, public := writeKey(t, dir, "service-accounts", newKey(t, c.ca.key.Curve))
	port := freePort(t)
	c.api = start(t, dir, "kube-apiserver", apiserver,
		"--etcd-servers", loopback(clients), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port),
		"--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none",
		"--tls-cert-file", cert, "--tls-private-key-file", key, "--client-ca-file", filepath.Join(dir, "ca.crt"),
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", public, "--service-account-signing-key-file", private,
		"--service-cluster-ip-range", "10.0.0.0/16", "--authorization-mode", "Node,RBAC", "--allow-privileged=true",
		// The taint that it puts on new nodes is taken away by the controller manager.
		"--disable-admission-plugins", "TaintNodesByCondition")

	cert, key = c.ca.issue(t, "admin", "system:masters")
	c.config = &rest.Config{
		Host: fmt.Sprintf("https://127.0.0.1:%d", port), QPS: -1,
		ContentConfig:   rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf},
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "ca.crt"), CertFile: cert, KeyFile: key},
	}
	var err error
	if c.client, err = kubernetes.NewForConfig(c.config); err != nil {
		t.Fatal(err)
	}
	eventually(t, "kube-apiserver is ready", func(ctx context.Context) error {
		_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	}, c.etcd, c.api)
	// Made by the server after it is ready.
	eventually(t, "namespace default is there", func(ctx context.Context) error {
		_, err := c.client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	}, c.api)
	c.serviceAccount(t, "default", "default")
	return c
}

func loopback(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

// serviceAccount makes one as the controller manager does for each namespace.
func (c *cluster) serviceAccount(t *testing.T, namespace, name string) {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := c.client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// kubeconfig writes a configuration for a program that is this user.
func (c *cluster) kubeconfig(t *testing.T, user string) string {
	t.Helper()
	cert, key := c.ca.issue(t, user)
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: c.config.Host, CertificateAuthority: c.config.CAFile}
	config.AuthInfos["user"] = &clientcmdapi.AuthInfo{ClientCertificate: cert, ClientKey: key}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "user"}
	config.CurrentContext = "test"
	path := filepath.Join(c.dir, user+".kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// scheduler starts kube-scheduler. Its limit on calls is lifted, so that what is
// measured is not the limit; all else is as it comes.
func (c *cluster) scheduler(t *testing.T) *process {
	t.Helper()
	var config bytes.Buffer
	fmt.Fprintf(&config, `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
clientConnection: {kubeconfig: %q, qps: 5000, burst: 5000}
`, c.kubeconfig(t, "system:kube-scheduler"))
	path := filepath.Join(c.dir, "scheduler.yaml")
	if err := os.WriteFile(path, config.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	cert, key := c.ca.issue(t, "scheduler-server")
	p := start(t, c.dir, "kube-scheduler", program(t, "kube-scheduler"), "--config", path,
		"--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port), "--tls-cert-file", cert, "--tls-private-key-file", key)
	client, err := rest.HTTPClientFor(&rest.Config{Timeout: 30 * time.Second, TLSClientConfig: rest.TLSClientConfig{CAFile: c.config.CAFile}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "kube-scheduler is ready", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d/readyz", port), nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %s", resp.Status)
		}
		return nil
	}, p, c.api)
	return p
}
