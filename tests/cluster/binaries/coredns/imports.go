//go:build imports

// Package testcoredns pins the CoreDNS that the pods of the end-to-end tests ask.
package testcoredns

import _ "github.com/coredns/coredns"
