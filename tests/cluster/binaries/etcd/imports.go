//go:build imports

// Package testetcd pins the etcd that the tests' control plane runs on.
package testetcd

import _ "go.etcd.io/etcd/server/v3"
