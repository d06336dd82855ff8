"""Configurations of what runs on a real node: containerd and its pod network, kubelet, kube-proxy, CoreDNS."""

import json
from pathlib import Path
from typing import Any

from control_plane import ControlPlane, kubeconfig

NAME = "e2e"
HOST, NODE = "198.18.0.1", "198.18.0.2"
"""Ends of the link, in the range that RFC 2544 keeps for tests of networks."""
PODS, SERVICES = "198.18.64.0/18", "198.19.0.0/16"
KUBERNETES_SERVICE = "198.19.0.1"
SANDBOX = "localhost/moe-test-pause:1"
CNI = Path("/usr/lib/cni")


def write_containerd_files(folder: Path, root: Path) -> None:
    """Configuration of containerd, which keeps images below `root`, and of the pods' network."""
    (folder / "cni").mkdir()
    (folder / "cni" / "pods.conflist").write_text(json.dumps(_pod_network(folder)))
    (folder / "containerd.toml").write_text(f"""
version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI}"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
""")


def _pod_network(folder: Path) -> dict[str, Any]:
    """A routed link a pod: what pods of a node say to each other through a Service passes the node's rules."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{folder}/addresses",
    }
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def write_kubelet_files(folder: Path, plane: ControlPlane, user: Path) -> None:
    """Configurations of kubelet, which is `user`, kube-proxy and CoreDNS."""
    url = plane.url.replace("127.0.0.1", HOST)
    admin = plane.folder / "admin"
    (folder / "kubelet.kubeconfig").write_text(json.dumps(kubeconfig(url, plane.authority, user)))
    (folder / "admin.kubeconfig").write_text(json.dumps(kubeconfig(url, plane.authority, admin)))
    (folder / "resolv.conf").write_text(f"nameserver {NODE}\n")
    (folder / "kubelet.json").write_text(json.dumps(_kubelet(folder, plane.authority.ca_file)))
    (folder / "proxy.json").write_text(json.dumps(_proxy(folder)))
    (folder / "Corefile").write_text(f"""
.:53 {{
  bind {NODE}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {folder}/admin.kubeconfig
    pods insecure
    ttl 5
  }}
}}
""")


def _kubelet(folder: Path, authority: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE,
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [NODE],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{folder}/resolv.conf",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{folder.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": [],
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "200Mi"},
        "imageGCHighThresholdPercent": 100,  # images stay for the next run
        "healthzPort": 0,
        "readOnlyPort": 0,
        "registerWithTaints": [],
    }


def _proxy(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": NAME,
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": f"{folder}/admin.kubeconfig"},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
