//go:build purego || !(amd64 || arm64 || s390x)

package xts

var fast []kind
